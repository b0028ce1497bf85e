"""Egress engine resolves its next hop by the kernel's neighbour table, or by itself where the kernel cannot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.addresses import stable_mac
from arcbox_net.config import Egress
from tests.support.echo import is_echoed
from tests.support.machine import Machine, NetnsGuest
from tests.support.netns import Namespace, wait_until

EXTERNAL = "203.0.113.9"
OTHER_MAC = "02:00:00:00:00:42"
ENGINE_MAC = stable_mac("dev", f"@engine {Machine.uplink}")


@pytest.fixture
def network(machine: Machine) -> Iterator[NetworkManager]:
    """Its kernel gives a neighbour up sooner than others do."""
    machine.sysctl(f"net.ipv4.neigh.{machine.uplink}.retrans_time_ms", 200)
    listen_for_requests(machine.world)
    config = NetConfig(
        egress=Egress.ENGINE,
        uplink=machine.uplink,
        external_ip=f"{EXTERNAL}/24",
        next_hop=machine.world_ip,
    )
    with machine.network(config, name="dev") as network:
        yield network


def listen_for_requests(world: Namespace) -> None:
    """Count the engine's requests, and make room for what silences the answers."""
    world.run(
        "nft -f -",
        stdin=f"""
        table arp heard {{
            counter asked {{ }}
            chain input {{
                type filter hook input priority 0;
                arp operation request ether saddr {ENGINE_MAC} counter name asked
            }}
            chain output {{ type filter hook output priority 0; }}
        }}
        """,
    )


def requests(machine: Machine) -> int:
    listed = machine.world.json("nft -j list counter arp heard asked")
    (found,) = [one["counter"]["packets"] for one in listed["nftables"] if "counter" in one]
    return int(found)


def mute(machine: Machine) -> None:
    """The world answers no ARP request any more, and asks as ever."""
    machine.world.run("nft add rule arp heard output arp operation reply drop")


def heal(machine: Machine) -> None:
    machine.world.run("nft flush chain arp heard output")


def reaches(guest: NetnsGuest, machine: Machine) -> bool:
    return is_echoed(guest, machine.world_ip)


def is_refused(guest: NetnsGuest, machine: Machine) -> bool:
    return "Host Unreachable" in guest.run(f"ping -c 1 -W 1 {machine.world_ip}", check=False).stdout


def test_the_kernel_resolves_the_next_hop_and_the_engine_does_not_ask(
    machine: Machine, network: NetworkManager
) -> None:
    guest = machine.guest(network)
    wait_until(lambda: reaches(guest, machine))
    assert requests(machine) == 0
    machine.world.run(f"ip link set {machine.uplink_peer} address {OTHER_MAC}")
    machine.world.run(f"busybox arping -U -c 1 -I {machine.uplink_peer} {machine.world_ip}")
    wait_until(lambda: reaches(guest, machine), message="the next hop has moved to another MAC")
    assert requests(machine) == 0


def test_guests_are_told_of_a_next_hop_that_does_not_answer_until_it_does_or_is_written_down(
    machine: Machine, network: NetworkManager
) -> None:
    mute(machine)
    machine.run(f"ip neigh flush dev {machine.uplink}")
    guest = machine.guest(network)
    wait_until(lambda: is_refused(guest, machine), message="host unreachable")
    mac = machine.world.links()[machine.uplink_peer]["address"]
    machine.run(f"ip neigh replace {machine.world_ip} lladdr {mac} dev {machine.uplink} nud permanent")
    wait_until(lambda: reaches(guest, machine), message="the administrator's entry holds")
    machine.run(f"ip neigh del {machine.world_ip} dev {machine.uplink}")
    wait_until(lambda: is_refused(guest, machine), message="host unreachable again")
    heal(machine)
    wait_until(lambda: reaches(guest, machine), message="it answers again")
    assert requests(machine) == 0


def test_without_an_address_of_the_kernel_on_the_link_the_engine_asks_itself(
    machine: Machine, network: NetworkManager
) -> None:
    machine.run(f"ip addr flush dev {machine.uplink}")
    guest = machine.guest(network)
    wait_until(lambda: reaches(guest, machine))
    assert requests(machine) > 0


def test_the_kernel_takes_over_when_it_gets_an_address_on_the_link(
    machine: Machine, network: NetworkManager
) -> None:
    machine.run(f"ip addr flush dev {machine.uplink}")
    guest = machine.guest(network)
    wait_until(lambda: reaches(guest, machine))
    machine.run(f"ip addr add {machine.host_ip}/24 dev {machine.uplink}")
    wait_until(lambda: machine.json(f"ip -j neigh show {machine.world_ip}"), message="the kernel was asked")
    wrong = f"{machine.world_ip} lladdr {OTHER_MAC} dev {machine.uplink}"
    machine.run(f"ip neigh replace {wrong} nud permanent")
    wait_until(lambda: not reaches(guest, machine), message="the kernel's word holds")
    machine.run(f"ip neigh del {wrong}")
    wait_until(lambda: reaches(guest, machine))
