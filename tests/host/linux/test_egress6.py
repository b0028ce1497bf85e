"""Whether a host reaches the IPv6 internet, as its kernel's routes say, and when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from arcbox_net.host.linux.egress6 import Ipv6Egress, reaches_ipv6
from arcbox_net.host.linux.rtsocket import RouteSocket
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

ROUTER = "2001:db8:113::1"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as created:
        created.run(f"ip -6 addr add 2001:db8:113::2/64 dev {created.uplink} nodad")
        yield created


def reaches(host: Host) -> bool:
    with RouteSocket(host.path) as rt:
        return reaches_ipv6(rt)


@pytest.mark.parametrize(
    "routes",
    [["default"], ["::/1", "8000::/1"], ["2000::/3"], ["default table 77"]],
    ids=["default", "halves", "global-unicast", "by-a-rule"],
)
def test_a_route_to_everywhere_is_a_way_out_however_it_is_written(host: Host, routes: list[str]) -> None:
    assert not reaches(host)
    host.run("ip -6 rule add table 77")
    for route in routes:
        network, _, table = route.partition(" ")
        host.run(f"ip -6 route add {network} via {ROUTER} dev {host.uplink} {table}")
    assert reaches(host)


@pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole", "throw"])
def test_a_route_that_rejects_is_none(host: Host, kind: str) -> None:
    host.run(f"ip -6 route add {kind} default")
    assert not reaches(host)


def test_a_host_with_nothing_but_a_link_local_address_has_no_way_out(host: Host) -> None:
    host.run(f"ip -6 addr del 2001:db8:113::2/64 dev {host.uplink}")
    host.run(f"ip -6 route add default via fe80::7 dev {host.uplink}")
    assert not reaches(host)


def test_a_host_that_has_ipv6_switched_off_has_no_way_out(host: Host) -> None:
    host.run(f"ip -6 route add default via {ROUTER} dev {host.uplink}")
    assert reaches(host)
    host.sysctl("net.ipv6.conf.all.disable_ipv6", 1)
    assert not reaches(host)


def follow(host: Host, steps: list[tuple[Callable[[], object], bool]], *, before: bool) -> None:
    """Each step makes the host's answer another one, and is told."""

    async def run() -> None:
        told: asyncio.Queue[bool] = asyncio.Queue()
        egress = Ipv6Egress(told.put_nowait)
        egress.start()
        try:
            assert egress.available is before
            for step, after in steps:
                step()
                assert await asyncio.wait_for(told.get(), netns.PATIENCE_S) is after
                assert egress.available is after
            assert told.empty()
        finally:
            egress.stop()
            egress.stop()

    host.call(lambda: asyncio.run(run()))


def test_a_change_of_routes_addresses_or_links_is_told(host: Host) -> None:
    route = f"default via {ROUTER} dev {host.uplink}"
    follow(
        host,
        [
            (lambda: host.run(f"ip -6 route add {route}"), True),
            (lambda: host.run(f"ip -6 route del {route}"), False),
            (lambda: host.run(f"ip -6 route add {route}"), True),
            (lambda: host.run(f"ip link set {host.uplink} down"), False),
        ],
        before=False,
    )


def test_a_change_that_changes_nothing_for_guests_is_not_told(host: Host) -> None:
    route = f"default via {ROUTER} dev {host.uplink}"
    host.run(f"ip -6 route add {route}")

    def other_routes() -> None:
        for i in range(1, 50):
            host.run(f"ip -6 route add 2001:db8:{i:x}::/48 via {ROUTER} dev {host.uplink}")
        host.run(f"ip -6 route del {route}")

    follow(host, [(other_routes, False)], before=True)
