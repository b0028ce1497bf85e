"""Bridge mode: guests on an existing bridge, or a NIC lent to a bridge of ours and given back as it was."""

from __future__ import annotations

import pytest

from arcbox_net import DhcpConfig, NetConfig, NetworkManager, NetworkMode
from tests.support.echo import wait_for_echo
from tests.support.machine import Machine, kill9, udhcpc
from tests.support.netns import wait_until
from tests.support.peers import http_server


def on_bridge(name: str) -> NetConfig:
    return NetConfig(mode=NetworkMode.BRIDGE, bridge=name)


def with_nic(name: str) -> NetConfig:
    return NetConfig(mode=NetworkMode.BRIDGE, nic=name)


def test_guest_joins_an_existing_bridge_and_the_bridge_stays(machine: Machine) -> None:
    machine.run("ip link add br0 address 02:00:00:00:00:b0 type bridge")
    machine.run("ip addr add 198.51.100.1/24 dev br0")
    machine.run("ip link add nic0 type veth peer name nic1")  # a carrier without guests
    machine.run("ip link set nic1 up")
    machine.run("ip link set nic0 master br0 up")
    machine.run("ip link set br0 up")
    before = machine.snapshot()
    with machine.network(on_bridge("br0")) as network:
        guest = machine.bare_guest(network, "vm1")
        assert guest.links()["eth0"]
        masters = {link.get("master") for name, link in machine.links().items() if name.startswith("abx")}
        assert masters == {"br0"}
        guest.run("ip addr add 198.51.100.2/24 dev eth0")
        guest.run("ip link set eth0 up")
        wait_for_echo(guest, "198.51.100.1")
    after = machine.snapshot()
    assert after == before


def test_k9_guests_are_put_back_on_a_bridge_that_was_made_anew(machine: Machine) -> None:
    machine.run("ip link add br0 type bridge")
    with machine.network(on_bridge("br0")) as network:
        machine.bare_guest(network, "vm1")
        port = network.ports()[0].ifname
        machine.run("ip link del br0")
        wait_until(lambda: machine.links()[port].get("master") is None)
        assert [one.name for one in network.ports()] == ["vm1"]
        machine.run("ip link add br0 type bridge")
        wait_until(lambda: machine.links()[port].get("master") == "br0")


def test_bridge_keeps_its_mac_when_guests_come_and_go(machine: Machine) -> None:
    # A bridge without a MAC of its own takes the lowest of its ports'; a guest must not change it.
    machine.run("ip link add br0 type bridge")
    machine.run("ip link add nic0 address 92:00:00:00:00:01 type veth peer name nic1")
    machine.run("ip link set nic0 master br0 up")
    machine.run("ip link set br0 up")
    with machine.network(on_bridge("br0")) as network:
        before = machine.links()["br0"]["address"]
        for number in range(8):
            network.attach_tap(f"tap{number}")
            machine.bare_guest(network, f"ns{number}")
        assert machine.links()["br0"]["address"] == before


def test_bridge_mode_serves_no_dhcp_and_no_dns_unless_asked(machine: Machine) -> None:
    machine.run("ip link add br0 type bridge")
    machine.run("ip link set br0 up")
    with machine.network(on_bridge("br0")) as network:
        guest = machine.bare_guest(network)
        assert udhcpc(guest, "-t", "2", check=False) == {}
        assert ":53 " not in machine.run("ss -Hlun").stdout
        status = network.status()
        assert (status.dhcp, status.dns) == (False, False)


def test_bridge_guest_uses_the_lans_own_dhcp_server(machine: Machine, tmp_path: object) -> None:
    server = machine.world.popen(
        [
            *["dnsmasq", "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--user=root"],
            *[f"--pid-file={tmp_path}/pid", f"--dhcp-leasefile={tmp_path}/leases", "--interface=w0"],
            "--dhcp-range=203.0.113.50,203.0.113.59,1h",
        ]
    )
    try:
        wait_until(lambda: ":67 " in machine.world.run("ss -Hlun").stdout)
        with machine.network(with_nic("up0")) as network:
            guest = machine.bare_guest(network)
            lease = udhcpc(guest)
            assert lease["ip"].startswith("203.0.113.5")
            wait_for_echo(guest, machine.world_ip)
    finally:
        server.kill()
        server.wait()


def lan_with_more(machine: Machine) -> None:
    """The uplink as people have it: several addresses, a metric, an extra route."""
    machine.run("ip addr add 203.0.113.77/24 dev up0")
    machine.run("ip route add 198.51.100.0/24 via 203.0.113.1 dev up0 metric 50")
    machine.run("ip link set up0 mtu 1450")


def test_nic_is_lent_and_given_back_with_addresses_and_routes(machine: Machine) -> None:
    lan_with_more(machine)
    before = machine.snapshot()
    with http_server(machine.world):
        with machine.network(with_nic("up0")) as network:
            guest = machine.bare_guest(network)
            assert machine.links()["up0"]["master"] == network.status().bridge
            wait_for_echo(machine, machine.world_ip)
            assert f"default via {machine.world_ip}" in machine.run("ip route").stdout
            guest.run("ip addr add 203.0.113.9/24 dev eth0")
            guest.run("ip link set eth0 up")
            wait_for_echo(guest, machine.world_ip)
            assert (
                guest.run(f"curl -sS --max-time 30 http://{machine.world_ip}/").stdout.strip()
                == "203.0.113.9"
            )
        after = machine.snapshot()
    assert after == before
    wait_for_echo(machine, machine.world_ip)


def test_nic_is_given_back_after_a_kill(machine: Machine) -> None:
    lan_with_more(machine)
    before = machine.snapshot()
    machine.cli("up lan --mode bridge --nic up0")
    kill9(NetworkManager.connect("lan").pid)
    wait_for_echo(machine, machine.world_ip)  # the host stays online meanwhile
    machine.cli("down lan")
    assert machine.snapshot() == before


def test_nic_is_kept_by_an_up_after_a_kill_and_given_back_by_down(machine: Machine) -> None:
    lan_with_more(machine)
    before = machine.snapshot()
    machine.cli("up lan --mode bridge --nic up0")
    kill9(NetworkManager.connect("lan").pid)
    machine.cli("up lan --mode bridge --nic up0")
    wait_for_echo(machine, machine.world_ip)
    machine.cli("down lan")
    assert machine.snapshot() == before


def test_bridge_mode_serves_dhcp_when_asked_for_it_with_a_subnet(machine: Machine) -> None:
    machine.run("ip link add br0 type bridge")
    machine.run("ip addr add 10.55.0.1/24 dev br0")
    machine.run("ip link set br0 up")
    config = NetConfig(
        mode=NetworkMode.BRIDGE,
        bridge="br0",
        subnet="10.55.0.0/24",
        gateway="10.55.0.1",
        dhcp=DhcpConfig(enabled=True, pool=("10.55.0.100", "10.55.0.120")),
    )
    with machine.network(config) as network:
        guest = machine.bare_guest(network)
        assert udhcpc(guest)["ip"].startswith("10.55.0.1")


@pytest.mark.parametrize("ifname", ["nope", "lo"])
def test_unusable_nic_is_a_clear_error_and_changes_nothing(machine: Machine, ifname: str) -> None:
    before = machine.snapshot()
    done = machine.cli(f"up lan --mode bridge --nic {ifname}", check=False)
    assert done.returncode == 1
    assert ifname in done.stderr and "Traceback" not in done.stderr
    assert machine.snapshot() == before
