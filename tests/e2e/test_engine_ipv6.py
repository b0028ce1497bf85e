"""Egress engine and IPv6: guests have an address outside of that version too, while the uplink leads somewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net import NetConfig, NetworkManager
from arcbox_net.config import Egress
from tests.e2e.test_ipv6 import HOST6, WORLD6, body, connect_host, default_routes, ready
from tests.support.echo import is_echoed, wait_for_echo
from tests.support.machine import Machine
from tests.support.netns import Namespace, wait_until
from tests.support.peers import exchange_udp, http_server, udp_echo
from tests.support.plugged import PluggedGuest

EXTERNAL, EXTERNAL6 = "203.0.113.9", "2001:db8:113::9"
METADATA6 = "fd00:ec2::254"


@pytest.fixture
def dual(world: Machine) -> Iterator[Machine]:
    """The world with IPv6 and HTTP there; the host has an address in it, and no route yet."""
    world.run(f"ip -6 addr add {HOST6}/64 dev {world.uplink} nodad")
    world.world.run(f"ip -6 addr add {WORLD6}/64 dev {world.uplink_peer} nodad")
    with http_server(world.world, address=WORLD6):
        yield world


def config(machine: Machine) -> NetConfig:
    return NetConfig(
        egress=Egress.ENGINE,
        uplink=machine.uplink,
        external_ip=EXTERNAL,
        external_ip6=EXTERNAL6,
        workers=2,
    )


def flow_guests(network: NetworkManager) -> set[str]:
    return {flow.guest for flow in network.flows()}


def test_guests_of_the_kernel_and_at_sockets_leave_by_ipv6_and_are_reached_there(
    dual: Machine, tmp_path: Path
) -> None:
    connect_host(dual)
    dual.world.run(f"ip -6 addr add {METADATA6}/128 dev lo")
    with dual.network(config(dual), name="dev") as network:
        info = dual.cli_json("attach", "dev", "plugged", "--stream", str(tmp_path / "s"))
        guest = dual.bare_guest(network, "bare")
        with PluggedGuest("plugged", info, "192.168.64.1") as plugged:
            plugged.plug()
            address6 = {port.name: str(port.ip6) for port in network.ports()}
            one: Namespace
            for one, ifname, name in ((guest, "eth0", "bare"), (plugged, "tap0", "plugged")):
                wait_until(lambda one=one: one.json("ip -6 -j route show default"))
                wait_until(lambda one=one, at=ifname: "tentative" not in one.run(f"ip -6 a s {at}").stdout)
                asked = one.run(["curl", "-gsS", "--max-time", "30", f"http://[{WORLD6}]/"]).stdout
                assert asked.strip() == EXTERNAL6
                wait_for_echo(one, WORLD6)
                with udp_echo(dual.world, 7, WORLD6):
                    assert exchange_udp(one, WORLD6, 7, b"hello") == f"{EXTERNAL6} hello".encode()
                assert address6[name] in flow_guests(network)
                assert not is_echoed(one, METADATA6)
                with http_server(one, address="::"):
                    network.expose(f"[::]:8080:[{address6[name]}]:80")
                    dual.world.run(["curl", "-gsS", "--max-time", "30", f"http://[{EXTERNAL6}]:8080/"])
                    network.unexpose(f"[::]:8080:[{address6[name]}]:80")
        assert network.status().ipv6_egress


def test_guests_have_an_ipv6_default_route_while_the_engines_uplink_has_one(dual: Machine) -> None:
    with dual.network(config(dual), name="dev") as network:
        guest = dual.bare_guest(network)
        ready(guest, routed=False)
        assert not default_routes(guest) and not network.status().ipv6_egress
        connect_host(dual)
        ready(guest)
        assert body(guest, f"http://[{WORLD6}]/") == EXTERNAL6
        dual.run("ip -6 route del default")
        wait_until(lambda: not default_routes(guest), message="no default route")
        wait_until(lambda: not network.status().ipv6_egress)
