"""The segments that the host asks guests for, in a real kernel: on the routes to them, as the bridge's MTU is."""

from __future__ import annotations

from ipaddress import IPv6Interface

import pytest

from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.segments import HEADER_BYTES, SEGMENT_BYTES_MAX
from tests.host.linux.plans import bridge_plan
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

SUBNET, SUBNET6 = "192.168.64.0/24", "fd12:3456:789a::/64"
GATEWAY6 = IPv6Interface("fd12:3456:789a::1/64")
LARGEST_WITHOUT = SEGMENT_BYTES_MAX + HEADER_BYTES


def segments(host: Host) -> dict[str, int | None]:
    """What the routes by the bridge say, by subnet."""
    routes = host.json("ip -4 -j route show dev abx-t1") + host.json("ip -6 -j route show dev abx-t1")
    return {
        route["dst"]: route["metrics"][0].get("advmss") if "metrics" in route else None
        for route in routes
        if not route["dst"].startswith(("fe80", "ff00"))
    }


@pytest.mark.parametrize(
    ("mtu", "said"), [(65_520, SEGMENT_BYTES_MAX), (LARGEST_WITHOUT, None), (1500, None)]
)
def test_guests_of_a_bridge_with_large_frames_are_asked_for_less_than_its_mtu(
    host: Host, links: Links, mtu: int, said: int | None
) -> None:
    links.apply_bridge(bridge_plan(mtu=mtu, gateway6=GATEWAY6))
    assert segments(host) == {SUBNET: said, SUBNET6: said}


def test_a_bridge_that_is_adopted_has_what_its_new_mtu_needs(host: Host, links: Links) -> None:
    for mtu, said in ((1500, None), (65_520, SEGMENT_BYTES_MAX), (65_520, SEGMENT_BYTES_MAX), (9000, None)):
        links.apply_bridge(bridge_plan(mtu=mtu, gateway6=GATEWAY6))
        assert segments(host) == {SUBNET: said, SUBNET6: said}


def test_a_route_that_somebody_else_made_stays_as_it_is(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    host.run("ip route add 198.51.100.0/24 dev abx-t1 proto static")
    links.apply_bridge(bridge_plan(mtu=65_520))
    assert segments(host) == {SUBNET: SEGMENT_BYTES_MAX, "198.51.100.0/24": None}


def test_the_bridge_answers_guests_from_its_own_address_as_before(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan(mtu=65_520))
    (route,) = host.json(f"ip -4 -j route show {SUBNET}")
    assert (route["prefsrc"], route["scope"], route["protocol"]) == ("192.168.64.1", "link", "kernel")
