"""What a guest cannot do: reach the host, other networks or isolated neighbours, or pretend to be another."""

from __future__ import annotations

import socket
from pathlib import Path

from scapy.layers.igmp import IGMP
from scapy.layers.inet import IP, IPOption_Router_Alert
from scapy.layers.l2 import Ether

from arcbox_net import DnsConfig, HostAccess, NetConfig, NetworkManager, NetworkMode
from tests.support.dig import dig
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.machine import Machine, each_bridge_nf, udhcpc
from tests.support.netns import wait_until
from tests.support.peers import exchange_udp, http_server, is_closed

GATEWAY = "192.168.64.1"


def sent_by(network: NetworkManager, port: str) -> int:
    return next(info.tx_packets for info in network.ports() if info.name == port)


def send_raw(ifname: str, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        for frame in frames:
            raw.send(frame)


def test_h1_guest_reaches_no_port_of_the_host(machine: Machine) -> None:
    machine.run("ip addr add 198.51.100.7/32 dev lo")
    with machine.network(NetConfig()) as network:
        guest = machine.guest(network)
        wait_for_echo(guest, GATEWAY)
        guest.run(f"ip route add 127.0.0.2/32 via {GATEWAY}", check=False)
        guest.sysctl("net.ipv4.conf.eth0.route_localnet", 1)
        with http_server(machine, 80), http_server(machine, 8000, "127.0.0.1"):
            for address in (GATEWAY, machine.host_ip, "198.51.100.7", "192.168.64.255"):
                assert is_closed(guest, address, 80), address
            assert is_closed(guest, GATEWAY, 8000)


def test_h1_loopback_of_the_host_is_closed_even_to_crafted_routes(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        guest = machine.guest(network)
        wait_for_echo(guest, GATEWAY)
        guest.sysctl("net.ipv4.conf.all.route_localnet", 1)
        guest.run("ip addr del 127.0.0.1/8 dev lo")
        guest.run(f"ip route add 127.0.0.0/8 via {GATEWAY} src {guest.ip}")
        with http_server(machine, 80):
            assert is_closed(guest, "127.0.0.1", 80)


def test_h1_host_access_opens_exactly_the_listed_port(machine: Machine) -> None:
    config = NetConfig(host_access=(HostAccess("tcp", 8000),))
    with machine.network(config) as network:
        guest = machine.guest(network)
        with http_server(machine, 8000, "127.0.0.1"), http_server(machine, 8001, "127.0.0.1"):
            guest.run(f"curl -sS --max-time 30 http://{GATEWAY}:8000/")
            assert is_closed(guest, GATEWAY, 8001)


def test_gateway_answers_echo_dns_and_dhcp_only(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        guest = machine.bare_guest(network)
        udhcpc(guest)
        wait_for_echo(guest, GATEWAY)
        assert dig(guest, GATEWAY, "host.internal") == [GATEWAY]


@each_bridge_nf
def test_networks_do_not_reach_each_other(machine: Machine, bridge_nf: int) -> None:
    machine.bridge_netfilter(bridge_nf)
    with (
        machine.network(NetConfig(subnet="192.168.64.0/24"), name="one") as one,
        machine.network(NetConfig(subnet="192.168.65.0/24"), name="two") as two,
    ):
        first, second = machine.guest(one), machine.guest(two)
        wait_for_echo(first, GATEWAY)
        wait_for_echo(second, "192.168.65.1")
        with http_server(second):
            assert is_closed(first, second.ip, 80)
            assert not is_echoed(first, second.ip)
            assert not is_echoed(first, "192.168.65.1")
            first.run("ip route add 192.168.65.0/24 via 192.168.64.1")
            assert is_closed(first, second.ip, 80)


@each_bridge_nf
def test_l8_isolated_guests_see_neither_unicast_nor_broadcast_of_each_other(
    machine: Machine, bridge_nf: int
) -> None:
    machine.bridge_netfilter(bridge_nf)
    with machine.network(NetConfig(isolated=True)) as network:
        one, two = machine.guest(network, "one"), machine.guest(network, "two")
        for guest in (one, two):
            wait_for_echo(guest, GATEWAY)
        assert not is_echoed(one, two.ip)
        assert one.run(["arping", "-c", "1", "-w", "1", two.ip], check=False).returncode != 0
        # By the gateway's router: it neither forwards back nor sends a redirect.
        one.run(f"ip route add {two.ip}/32 via {GATEWAY}")
        assert not is_echoed(one, two.ip)


def test_host_only_guests_reach_each_other_and_the_gateway_but_nothing_outside(machine: Machine) -> None:
    with machine.network(NetConfig(mode=NetworkMode.HOST_ONLY), name="lab") as network:
        one, two = machine.bare_guest(network, "one"), machine.guest(network, "two")
        lease = udhcpc(one)
        assert "router" not in lease
        wait_for_echo(one, two.ip)
        wait_for_echo(one, lease["serverid"])
        one.run(f"ip route add default via {lease['serverid']}")
        with http_server(machine.world):
            assert is_closed(one, machine.world_ip, 80)
            assert not is_echoed(one, machine.world_ip)
            assert is_closed(one, machine.host_ip, 80)


def test_host_only_network_leaks_no_query(machine: Machine, world_dns: Path) -> None:
    machine.cli("up lab --mode host-only")
    guest = machine.namespace("g")
    machine.cli("attach", "lab", "vm1", "--netns", guest.path)
    gateway = machine.cli_json("show lab")["gateway"]
    assert "REFUSED" in guest.run(f"dig +tries=10 @{gateway} web.test").stdout
    assert dig(guest, gateway, "vm1")
    assert "web.test" not in world_dns.read_text()
    machine.cli("down lab")


def test_l1_frame_with_anothers_mac_is_dropped(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        one, two = machine.guest(network, "one"), machine.guest(network, "two")
        wait_for_echo(one, GATEWAY)
        one.run("ip link set eth0 down")
        one.run(f"ip link set eth0 address {two.mac}")
        one.run("ip link set eth0 up")
        one.run(f"ip route replace default via {GATEWAY}")
        assert not is_echoed(one, GATEWAY)
        wait_for_echo(two, GATEWAY)


def test_l4_packet_with_anothers_address_is_dropped(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        one, two = machine.guest(network, "one"), machine.guest(network, "two")
        one.run("ip addr add 192.168.64.200/24 dev eth0")
        wait_for_echo(one, GATEWAY)
        assert not is_echoed(one, GATEWAY, "-I", "192.168.64.200")
        assert not is_echoed(one, two.ip, "-I", "192.168.64.200")


def test_l3_gratuitous_arp_for_the_gateway_is_dropped(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        attacker, victim = machine.guest(network, "attacker"), machine.guest(network, "victim")
        wait_for_echo(victim, GATEWAY)
        true_mac = victim.json(f"ip -j neigh show {GATEWAY}")[0]["lladdr"]
        attacker.run(f"ip addr add {GATEWAY}/32 dev eth0")
        for mode in ("-U", "-A"):
            attacker.run(f"arping {mode} -c 2 -w 2 -I eth0 {GATEWAY}", check=False)
        wait_for_echo(victim, GATEWAY)
        assert victim.json(f"ip -j neigh show {GATEWAY}")[0]["lladdr"] == true_mac


def test_l10_groups_that_a_guest_reports_fill_no_table_of_the_host(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        one, two = machine.guest(network, "one"), machine.guest(network, "two")
        reports = [
            bytes(
                Ether(src=one.mac, dst=f"01:00:5e:01:{i // 256:02x}:{i % 256:02x}")
                / IP(src=one.ip, dst=f"239.1.{i // 256}.{i % 256}", ttl=1, options=IPOption_Router_Alert())
                / IGMP(type=0x16, gaddr=f"239.1.{i // 256}.{i % 256}")
            )
            for i in range(500)
        ]
        before = sent_by(network, "one")
        one.call(lambda: send_raw("eth0", reports))
        wait_until(lambda: sent_by(network, "one") >= before + len(reports))
        assert not machine.json("bridge -j mdb show")[0]["mdb"]
        wait_for_echo(two, one.ip)


def test_d19_guests_own_dhcp_server_is_not_heard(machine: Machine, tmp_path: Path) -> None:
    with machine.network(NetConfig(dhcp=_no_dhcp())) as network:
        rogue, victim = machine.guest(network, "rogue"), machine.bare_guest(network, "victim")
        server = rogue.popen(
            [
                *["dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root"],
                *[f"--pid-file={tmp_path / 'pid'}", f"--dhcp-leasefile={tmp_path / 'leases'}"],
                *[
                    "--interface=eth0",
                    "--dhcp-range=192.168.64.100,192.168.64.120,1h",
                    "--dhcp-authoritative",
                ],
            ]
        )
        try:
            wait_until(lambda: ":67 " in rogue.run("ss -Hlun").stdout)
            assert udhcpc(victim, "-t", "2", check=False) == {}
        finally:
            server.kill()
            server.wait()


def _no_dhcp() -> object:
    from arcbox_net import DhcpConfig

    return DhcpConfig(enabled=False)


def test_h3_api_is_on_no_address(machine: Machine) -> None:
    with machine.network(NetConfig(), name="dev") as network:
        guest = machine.guest(network)
        listeners = machine.run("ss -Hltn").stdout.split("\n")
        gateway6 = network.status().gateway6
        assert {line.split()[3] for line in listeners if line} <= {f"{GATEWAY}:53", f"[{gateway6}]:53"}
        assert exchange_udp(guest, GATEWAY, 5353, b"x", timeout=0.5) is None
        assert oct((machine.runtime / "dev").stat().st_mode)[-3:] == "700"
        for name in ("api.sock", "fd.sock"):
            assert oct((machine.runtime / "dev" / name).stat().st_mode)[-3:] == "600"
        abstract = [line for line in Path("/proc/net/unix").read_text().splitlines() if "@" in line]
        assert not any("arcbox" in line or "abx" in line for line in abstract)


def test_foreign_drop_policy_is_reported(machine: Machine) -> None:
    machine.drop_forwarded("strict")
    with machine.network(NetConfig(), name="dev") as network:
        assert any("strict" in warning.message for warning in network.status().warnings)
        shown = machine.cli("show dev")
        assert "strict" in shown.stdout + shown.stderr
        assert "strict" in machine.cli("doctor", check=False).stdout


def test_dns_of_the_network_is_no_open_resolver_for_the_world(machine: Machine) -> None:
    with machine.network(NetConfig(dns=DnsConfig(upstreams=(machine.world_ip,)))):
        machine.world.run(f"ip route add 192.168.64.0/24 via {machine.host_ip}")
        done = machine.world.run(f"dig +tries=1 +time=1 @{GATEWAY} host.internal", check=False)
        assert "ANSWER SECTION" not in done.stdout


def test_guest_is_not_heard_with_an_address_it_took_itself(machine: Machine) -> None:
    with machine.network(NetConfig()) as network:
        guest = machine.guest(network)
        wait_for_echo(guest, machine.world_ip)
        guest.run("ip addr flush dev eth0")
        guest.run("ip addr add 192.168.64.250/24 dev eth0")
        guest.run(f"ip route replace default via {GATEWAY}")
        with http_server(machine.world):
            assert is_closed(guest, machine.world_ip, 80)
