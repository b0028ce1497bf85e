"""Egress engine: the devices that it leaves by, and what an administrator does to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.config import Egress
from arcbox_net.errors import AddressInUse, ArcboxNetError, ConfigError
from arcbox_net.host.plan import leg_ifname
from tests.support.machine import Machine, NetnsGuest
from tests.support.netns import wait_until

EXTERNAL, BEHIND_TAP = "203.0.113.9", "198.51.100.9"
LAN = "lan0"


def make_tap(machine: Machine) -> None:
    machine.run(f"ip tuntap add dev {LAN} mode tap")
    machine.run(f"ip link set {LAN} up")


def route_by_host(machine: Machine) -> None:
    """The host routes for the network that the TAP is."""
    make_tap(machine)
    machine.run(f"ip addr add 198.51.100.1/24 dev {LAN}")
    machine.sysctl("net.ipv4.ip_forward", 1)
    machine.world.run(f"ip route replace 198.51.100.0/24 via {machine.host_ip}")


def bridge(machine: Machine) -> None:
    """The TAP is a port of the host's own bridge, like its uplink."""
    make_tap(machine)
    if "br0" not in machine.links():
        machine.run("ip link add br0 type bridge")
    machine.run("ip link set br0 up")
    for ifname in (machine.uplink, LAN):
        machine.run(f"ip link set {ifname} master br0")


def asks(guest: NetnsGuest, machine: Machine) -> str:
    return guest.run(f"curl -sS --max-time 3 http://{machine.world_ip}/", check=False).stdout.strip()


@pytest.mark.parametrize(
    ("arrange", "external", "next_hop"),
    [(route_by_host, BEHIND_TAP, None), (bridge, f"{EXTERNAL}/24", Machine.world_ip)],
    ids=["host-routes", "bridged"],
)
def test_a_tap_of_the_host_is_an_uplink(
    world: Machine, arrange: Callable[[Machine], None], external: str, next_hop: str | None
) -> None:
    arrange(world)
    address = external.partition("/")[0]
    config = NetConfig(
        egress=Egress.ENGINE, uplink=f"tap:{LAN}", external_ip=external, next_hop=next_hop, workers=2
    )
    with world.network(config, name="dev") as network:
        guest = world.guest(network)
        wait_until(lambda: asks(guest, world) == address)
        guest.run(f"curl -sS --max-time 30 -o /dev/null http://{world.world_ip}/bytes/4000000")
        network.expose("0.0.0.0:8080:g1:80")
        guest.popen(["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"])
        wait_until(lambda: ":80" in guest.run("ss -Hltn").stdout)
        forwarded = world.world.run(f"curl -sS --max-time 30 http://{address}:8080/hosts").stdout
        assert "localhost" in forwarded
        world.run(f"ip link del {LAN}")
        assert not asks(guest, world)
        arrange(world)
        wait_until(lambda: asks(guest, world), message="the engine opens the TAP anew")
    assert LAN in world.links(), "it is the host's"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"uplink": "lo", "external_ip": f"{EXTERNAL}/24"}, ConfigError, "no Ethernet"),
        ({"external_ip": "203.0.113.255"}, ConfigError, "no host's address"),
        ({"external_ip": "192.168.64.9/24", "subnet": "192.168.64.0/24"}, ConfigError, "guests' own subnet"),
        ({"next_hop": EXTERNAL}, ConfigError, "engine's own"),
        ({"external_ip": Machine.host_ip}, AddressInUse, "this host's own"),
        ({"external_ip": Machine.world_ip}, AddressInUse, "on up0 has that address"),
    ],
    ids=["no-ethernet", "broadcast", "in-the-subnet", "next-hop-is-ours", "the-hosts", "the-worlds"],
)
def test_an_uplink_or_address_that_cannot_be_the_engines_is_refused_at_the_start(
    world: Machine, options: dict[str, Any], error: type[ArcboxNetError], words: str
) -> None:
    manager = NetworkManager(
        NetConfig(egress=Egress.ENGINE, **{"uplink": world.uplink, "external_ip": EXTERNAL} | options)
    )
    with pytest.raises(error, match=words):
        world.call(manager.start)


def test_k9_an_uplink_that_was_down_for_a_while_carries_guests_again(world: Machine) -> None:
    config = NetConfig(egress=Egress.ENGINE, uplink=world.uplink, external_ip=EXTERNAL)
    with world.network(config, name="dev") as network:
        guest = world.guest(network)
        wait_until(lambda: asks(guest, world) == EXTERNAL)
        world.run(f"ip link set {world.uplink} down")
        assert not asks(guest, world)
        world.run(f"ip link set {world.uplink} up")
        world.run(f"ip route replace default via {world.world_ip} dev {world.uplink}")
        wait_until(lambda: asks(guest, world) == EXTERNAL)
        world.run(f"ip link set {leg_ifname('dev')} down")
        wait_until(lambda: asks(guest, world) == EXTERNAL, message="the leg is up again")
