"""Egress engine on a bridge that leads multicast only to those who reported its group (MLD snooping)."""

from __future__ import annotations

import pytest

from arcbox_net import NetConfig
from arcbox_net.config import Egress
from tests.support.machine import Machine
from tests.support.netns import wait_until

EXTERNAL, EXTERNAL6, WORLD6 = "203.0.113.9", "2001:db8:113::9", "2001:db8:113::1"
GROUP = "ff02::1:ff00:9"  # in which EXTERNAL6 is asked for


def snoop(machine: Machine) -> None:
    """The world's end of the wire becomes a port of a bridge that asks who listens, each second."""
    world, port = machine.world, machine.uplink_peer
    world.run(f"ip addr flush dev {port}")
    world.run("ip link add br0 type bridge mcast_snooping 1 mcast_querier 1")
    world.run("ip link set br0 type bridge mcast_query_response_interval 50 mcast_query_interval 100")
    world.run("ip link set br0 type bridge mcast_startup_query_interval 100")
    world.run(f"ip link set {port} master br0")
    for ifname in (port, "br0"):
        world.run(f"ip link set {ifname} up")
    world.run(f"ip addr add {machine.world_ip}/24 dev br0")
    world.run(f"ip -6 addr add {WORLD6}/64 dev br0 nodad")


def is_led(machine: Machine) -> bool:
    return any(GROUP in line for line in machine.world.run("bridge mdb show").stdout.splitlines())


def is_found(machine: Machine) -> bool:
    """Whether the world's kernel learns the external address's MAC, which it has to ask for."""
    machine.world.run("ip -6 neigh flush dev br0", check=False)
    machine.world.run(f"ping -6 -c 1 -W 1 {EXTERNAL6}", check=False)
    known = machine.world.json(f"ip -6 -j neigh show {EXTERNAL6} dev br0")
    return any("lladdr" in one for one in known)


@pytest.mark.slow
def test_the_external_ipv6_address_is_found_behind_a_bridge_that_snoops(machine: Machine) -> None:
    snoop(machine)
    config = NetConfig(
        egress=Egress.ENGINE,
        uplink=machine.uplink,
        external_ip=f"{EXTERNAL}/24",
        external_ip6=f"{EXTERNAL6}/64",
        next_hop=machine.world_ip,
        next_hop6=WORLD6,
    )
    with machine.network(config, name="dev") as network:
        machine.guest(network)
        wait_until(lambda: is_led(machine), message="its group is reported")
        wait_until(lambda: is_found(machine))
        removed = f"bridge mdb del dev br0 port {machine.uplink_peer} grp {GROUP}"
        machine.world.run(removed)
        wait_until(lambda: is_led(machine), message="the querier is answered")
