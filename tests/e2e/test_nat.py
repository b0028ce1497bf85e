"""The main job: a guest on a NAT network has an address, names and the outside world, with real clients."""

from __future__ import annotations

import hashlib
import json
import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from arcbox_net import DhcpConfig, DnsConfig, NetConfig, Reservation
from tests.support.dig import dig
from tests.support.echo import wait_for_echo
from tests.support.machine import SUPPORT, Machine, each_bridge_nf, udhcpc
from tests.support.netns import wait_until
from tests.support.peers import body_of, connect, http_server, iperf3_server, refused

SUBNET = IPv4Network("192.168.64.0/24")
GATEWAY = "192.168.64.1"


def config(machine: Machine, **options: object) -> NetConfig:
    """A NAT network that asks the world's DNS server."""
    return NetConfig(dns=DnsConfig(upstreams=(machine.world_ip,)), **options)  # type: ignore[arg-type]


def test_udhcpc_gets_address_router_dns_domain_mtu_and_lease_time(machine: Machine) -> None:
    with machine.network(config(machine, mtu=1400), name="dev") as network:
        guest = machine.bare_guest(network, "vm1")
        lease = udhcpc(guest)
        assert lease["ip"] == guest.ip
        assert IPv4Address(lease["ip"]) in SUBNET
        assert lease["router"] == lease["dns"] == lease["serverid"] == GATEWAY
        assert (lease["subnet"], lease["domain"]) == ("255.255.255.0", "dev.internal")
        assert int(lease["lease"]) == 3600
        assert udhcpc(guest, "-O", "mtu")["mtu"] == "1400"


def test_dhclient_gets_the_same_address_as_udhcpc(machine: Machine, tmp_path: Path) -> None:
    with machine.network(config(machine), name="dev") as network:
        guest = machine.bare_guest(network)
        first = udhcpc(guest)["ip"]
        guest.run("ip addr flush dev eth0")
        done = guest.run(
            [
                *["timeout", "100", "dhclient", "-4", "-1", "-v", "-sf", str(SUPPORT / "dhclient-script")],
                *["-lf", str(tmp_path / "leases"), "-pf", str(tmp_path / "pid"), "-cf", "/dev/null", "eth0"],
            ]
        )
        assert f"bound to {first}" in done.stderr
        assert first in guest.run("ip -4 addr show dev eth0").stdout
        guest.run(["sh", "-c", f"kill $(cat {tmp_path / 'pid'})"])


def test_reservation_is_what_the_guest_gets(machine: Machine) -> None:
    reserved = Reservation(mac="02:00:00:00:00:77", ip="192.168.64.77", hostname="printer")
    with machine.network(
        NetConfig(
            dhcp=DhcpConfig(reservations=(reserved,), options={42: "0xc0a84001"}),
            dns=DnsConfig(upstreams=(machine.world_ip,)),
        ),
        name="dev",
    ) as network:
        guest = machine.bare_guest(network, mac=reserved.mac)
        assert udhcpc(guest)["ip"] == reserved.ip
        assert dig(guest, GATEWAY, "printer.dev.internal") == [reserved.ip]


def test_guest_that_is_configured_for_it_reaches_the_world(world: Machine) -> None:
    with world.network(config(world), name="dev") as network:
        guest = world.guest(network)
        assert guest.run(f"curl -sS --max-time 30 http://{world.world_ip}/").stdout.strip() == world.host_ip
        wait_for_echo(guest, GATEWAY)
        wait_for_echo(guest, world.world_ip)


def test_upload_and_download_arrive_unchanged(world: Machine, tmp_path: Path) -> None:
    size = 32 << 20
    source = tmp_path / "source"
    source.write_bytes(body_of(size))
    digest = hashlib.sha256(body_of(size)).hexdigest()
    with world.network(config(world), name="dev") as network:
        guest = world.guest(network)
        there = f"http://{world.world_ip}"
        guest.run(["curl", "-sS", "--max-time", "60", "-o", str(tmp_path / "down"), f"{there}/bytes/{size}"])
        assert hashlib.sha256((tmp_path / "down").read_bytes()).hexdigest() == digest
        sent = guest.run(["curl", "-sS", "--max-time", "60", "-T", str(source), f"{there}/up"])
        assert sent.stdout == digest


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_dig_resolves_the_worlds_names_through_the_gateway(world: Machine, transport: str) -> None:
    with world.network(config(world), name="dev") as network:
        guest = world.guest(network)
        assert dig(guest, GATEWAY, transport, "web.test") == [world.world_ip]
        assert dig(guest, GATEWAY, transport, "text.test", "TXT") == ['"hello world"']


def test_dig_resolves_guests_forward_and_reverse(machine: Machine) -> None:
    with machine.network(config(machine), name="dev") as network:
        asking = machine.guest(network, "asking")
        named = machine.guest(network, "named")
        for name in ("named", "named.dev.internal"):
            assert dig(asking, GATEWAY, name) == [named.ip]
        assert dig(asking, GATEWAY, "-x", named.ip) == ["named.dev.internal."]
        assert dig(asking, GATEWAY, "host.internal") == [GATEWAY]
        network.register_dns("db.dev.internal", named.ip)
        assert dig(asking, GATEWAY, "db.dev.internal") == [named.ip]
        network.deregister_dns("db.dev.internal")
        assert "NXDOMAIN" in asking.run(f"dig +tries=10 @{GATEWAY} db.dev.internal").stdout


def test_upstream_comes_from_the_hosts_resolv_conf(world: Machine) -> None:
    world.cli("up dev")
    guest = world.namespace("g")
    world.cli("attach", "dev", "vm1", "--netns", guest.path)
    assert dig(guest, GATEWAY, "web.test") == [world.world_ip]
    world.cli("down dev")


@each_bridge_nf
def test_guests_reach_each_other(machine: Machine, bridge_nf: int) -> None:
    machine.bridge_netfilter(bridge_nf)
    with machine.network(config(machine), name="dev") as network:
        one, two = machine.guest(network), machine.guest(network)
        with http_server(two):
            assert one.run(f"curl -sS --max-time 30 http://{two.ip}/").stdout.strip() == one.ip


def test_detached_guest_is_gone_and_its_name_is_free(machine: Machine) -> None:
    with machine.network(config(machine), name="dev") as network:
        guest = machine.guest(network, "vm1")
        assert [port.name for port in network.ports()] == ["vm1"]
        network.detach("vm1")
        assert network.ports() == []
        assert "eth0" not in guest.links()
        machine.guest(network, "vm1")


@pytest.mark.parametrize("options", ["", "-R", "-P 4", "-u -b 50M"])
def test_iperf3_runs_through_the_network(machine: Machine, options: str) -> None:
    with machine.network(config(machine), name="dev") as network:
        guest = machine.guest(network)
        with iperf3_server(machine.world):
            done = guest.run(f"iperf3 -J -n 4M -c {machine.world_ip} {options}")
        end = json.loads(done.stdout)["end"]
        total = end.get("sum_received") or end["sum"]
        assert total["bytes"] > 100_000


def test_tap_has_vnet_headers_queues_and_the_networks_mtu(machine: Machine) -> None:
    with machine.network(config(machine, mtu=9000, multiqueue=True, num_queues=2), name="dev") as network:
        with network.attach_tap("vm1") as tap:
            assert len(tap.fds) == 2
            link = machine.links()[tap.ifname]
            assert (link["mtu"], link["txqlen"]) == (9000, 10_000)
            described = link["linkinfo"]["info_data"]
            assert described["vnet_hdr"] and described["multi_queue"]
            assert tap.ip in SUBNET
        wait_until(lambda: network.ports() == [])


def test_mtu_is_the_configured_one_on_every_link(machine: Machine) -> None:
    with machine.network(config(machine, mtu=1400), name="dev") as network:
        guest = machine.guest(network)
        ours = [link["mtu"] for name, link in machine.links().items() if name.startswith("abx")]
        assert len(ours) == 2
        assert set(ours) == {1400}
        assert guest.links()["eth0"]["mtu"] == 1400


def test_conntrack_timeouts_are_at_the_rfc_floors(world: Machine) -> None:
    with world.network(config(world), name="dev") as network:
        guest = world.guest(network)
        guest.run(["sh", "-c", f"echo x | nc -u -w 1 {world.world_ip} 9"], check=False)
        with connect(guest, world.world_ip, 80):
            listed = world.run(f"conntrack -L -s {guest.ip}", check=False).stdout
            left = {line.split()[0]: int(line.split()[2]) for line in listed.splitlines() if line}
        assert left["udp"] > 240, listed  # RFC 4787 REQ-5; the kernel's own default is 30
        assert left["tcp"] > 7200, listed  # RFC 5382 REQ-5


def test_closed_port_in_the_world_looks_closed_to_the_guest(machine: Machine) -> None:
    with machine.network(config(machine), name="dev") as network:
        guest = machine.guest(network)
        assert refused(guest, machine.world_ip, 81) == "ECONNREFUSED"


def test_allocate_ip_and_dhcp_never_give_out_the_same_address(machine: Machine) -> None:
    with machine.network(config(machine), name="dev") as network:
        taken = {str(network.allocate_ip()) for _ in range(5)}
        guests = {udhcpc(machine.bare_guest(network))["ip"] for _ in range(3)}
        assert len(taken) == 5
        assert not taken & guests
        before = network.available_ips()
        network.release_ip(next(iter(taken)))
        assert network.available_ips() == before + 1


def test_show_tells_what_the_library_tells(machine: Machine) -> None:
    machine.cli("up dev")
    shown = machine.cli_json("show dev")
    assert (shown["mode"], shown["subnet"], shown["gateway"]) == ("nat", str(SUBNET), GATEWAY)
    assert [row["name"] for row in machine.cli_json("ls")] == ["dev"]
    assert re.search(r"\bdev\b", machine.cli("ls").stdout)
    machine.cli("down dev")
    assert machine.cli_json("ls") == []
