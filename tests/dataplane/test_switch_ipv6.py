"""IPv6 as guests may speak it: addresses of their own, no routers, nothing that hides from the filter (L5, S5)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from arcbox_net.dataplane.port_binding import SwitchNetwork
from tests.support.switch import UPLINK, Segment, ether, ip6_of, link_local_of, udp6

ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
ALL = {1, 2, UPLINK}


def multicast(source: int, payload: Packet, *, src: str | None = None, hop_limit: int = 255) -> Packet:
    return (
        ether(source, ALL_NODES_MAC)
        / IPv6(src=src or link_local_of(source), dst=ALL_NODES, hlim=hop_limit)
        / payload
    )


def probe(source: int, target: str) -> Packet:
    """A search for duplicates."""
    return multicast(source, ICMPv6ND_NS(tgt=target), src="::")


def test_l5_the_first_to_use_an_address_has_it() -> None:
    segment = Segment()
    assert segment.reaches(0, udp6(0, 1)) == {1}
    assert segment.reason(1, udp6(1, 0, src=ip6_of(0))) == "source_ip"
    assert segment.reaches(0, udp6(0, 1)) == {1}


def test_l5_the_first_to_probe_an_address_has_it_and_the_second_is_answered() -> None:
    segment = Segment()
    assert segment.reaches(0, probe(0, ip6_of(0))) == ALL
    segment.lab.tick(40)
    assert segment.reaches(1, probe(1, ip6_of(0))) == {0, 2, UPLINK}
    assert segment.reason(1, multicast(1, ICMPv6ND_NA(tgt=ip6_of(0)))) == "nd"
    assert segment.reaches(0, multicast(0, ICMPv6ND_NA(tgt=ip6_of(0)))) == ALL


@pytest.mark.parametrize("address", [ip6_of(9), link_local_of(0)], ids=["chosen", "bound"])
def test_l5_nobody_else_probes_for_an_address_whose_guest_is_not_sure_of_it_yet(address: str) -> None:
    segment = Segment()
    for _ in range(2):  # also when it starts anew, with an address that it has had for long
        assert segment.reaches(0, probe(0, address)) == ALL
        segment.lab.tick(29)
        assert segment.reason(1, probe(1, address)) == "nd"
        assert segment.reaches(0, probe(0, address)) == ALL
        segment.lab.tick(40)
        assert segment.reaches(1, probe(1, address)) == {0, 2, UPLINK}


def test_an_address_that_was_used_without_a_probe_may_be_probed_for() -> None:
    segment = Segment()
    segment.reaches(0, udp6(0, 1))
    assert segment.reaches(1, probe(1, ip6_of(0))) == {0, 2, UPLINK}


def test_a_guests_link_local_address_is_its_own_before_it_speaks() -> None:
    segment = Segment()
    assert segment.reason(1, udp6(1, 0, src=link_local_of(0))) == "source_ip"
    assert segment.reaches(0, udp6(0, 1, src=link_local_of(0))) == {1}


@pytest.mark.parametrize("address", ["fe80::1", "fd00:64::1", "fd00:64::"])
def test_l5_the_gateways_addresses_are_nobodys(address: str) -> None:
    segment = Segment()
    assert segment.reason(0, udp6(0, 1, src=address)) == "source_ip"
    assert segment.reason(0, multicast(0, ICMPv6ND_NA(tgt=address))) == "nd"
    assert segment.reaches(0, probe(0, address)) == ALL  # the gateway answers


@pytest.mark.parametrize(
    "address", ["2001:db8::1", "fd00:65::1", "ff02::1", "::", "::1", "::ffff:192.168.64.10"]
)
def test_l5_an_address_outside_the_network_is_dropped(address: str) -> None:
    segment = Segment()
    assert segment.reason(0, udp6(0, 1, src=address)) == "source_ip"
    assert segment.reason(0, probe(0, address)) == "nd"


def test_an_address_that_is_not_used_is_free_again() -> None:
    segment = Segment()
    segment.send(0, udp6(0, 1))
    segment.lab.tick(5990)
    assert segment.reason(1, udp6(1, 0, src=ip6_of(0))) == "source_ip"
    segment.lab.tick(30)
    assert segment.reaches(1, udp6(1, 0, src=ip6_of(0))) == {0}


def test_sixty_four_addresses_at_once_and_half_of_one_a_second() -> None:
    segment = Segment()
    for i in range(64):
        assert segment.reaches(0, udp6(0, 1, src=f"fd00:64::1:{i:x}")) == {1}
    assert segment.reason(0, udp6(0, 1, src="fd00:64::1:40")) == "source_ip"
    segment.lab.tick(20)
    assert segment.reaches(0, udp6(0, 1, src="fd00:64::1:40")) == {1}
    assert segment.reason(0, udp6(0, 1, src="fd00:64::1:41")) == "source_ip"


def test_s5_ninety_six_addresses_and_no_more() -> None:
    segment = Segment()
    for i in range(95):  # and the link-local one
        segment.lab.tick(20)
        assert segment.reaches(0, udp6(0, 1, src=f"fd00:64::1:{i:x}")) == {1}
    segment.lab.tick(20)
    assert segment.reason(0, udp6(0, 1, src="fd00:64::1:5f")) == "source_ip"
    assert segment.reaches(1, udp6(1, 0, src="fd00:64::1:5f")) == {0}


def test_what_a_guest_asks_before_it_has_an_address_passes() -> None:
    for payload in (ICMPv6ND_RS(), ICMPv6MLReport2()):
        assert Segment().reaches(0, multicast(0, payload, src="::")) == ALL
    assert Segment().reason(0, multicast(0, ICMPv6EchoRequest(), src="::")) == "source_ip"


@pytest.mark.parametrize("payload", [ICMPv6ND_RA(), ICMPv6ND_Redirect()], ids=["ra", "redirect"])
@pytest.mark.parametrize(
    "ahead",
    [
        pytest.param([], id="plain"),
        pytest.param([IPv6ExtHdrHopByHop()], id="hop by hop"),
        pytest.param([IPv6ExtHdrDestOpt()] * 2, id="options"),
        pytest.param([IPv6ExtHdrFragment(m=0, offset=0)], id="atomic fragment"),
        pytest.param([IPv6ExtHdrFragment(m=1, offset=0)], id="first fragment"),
        pytest.param([IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1)], id="options and fragment"),
        pytest.param([IPv6ExtHdrFragment(m=1), IPv6ExtHdrDestOpt()], id="fragment of options"),
        pytest.param([IPv6ExtHdrRouting()], id="routing header"),
        pytest.param([IPv6ExtHdrDestOpt()] * 9, id="too many"),
        pytest.param([IPv6ExtHdrDestOpt(len=40, options=[], autopad=0)], id="beyond the head"),
    ],
)
def test_l5_a_router_cannot_hide(payload: Packet, ahead: list[Packet]) -> None:
    packet = payload
    for header in reversed(ahead):
        packet = header.copy() / packet
    frame = multicast(0, packet)
    assert Segment().reason(0, bytes(frame) + bytes(400)) == "nd"


def test_l5_a_later_fragment_of_icmpv6_or_of_options_is_dropped() -> None:
    for number in (58, 60, 59):
        fragment = IPv6ExtHdrFragment(offset=10, nh=number) / Raw(bytes(32))
        assert Segment().reason(0, multicast(0, fragment)) == "nd"


def test_fragments_of_datagrams_pass() -> None:
    segment = Segment()
    to = ether(0, 1) / IPv6(src=ip6_of(0), dst=ip6_of(1))
    assert segment.reaches(0, to / IPv6ExtHdrFragment(m=1) / UDP(sport=9, dport=9) / Raw(bytes(24))) == {1}
    assert segment.reaches(0, to / IPv6ExtHdrFragment(offset=4, nh=17) / Raw(bytes(24))) == {1}


@pytest.mark.parametrize("number", [59, 47, 50, 0])
def test_an_unusual_upper_layer_is_dropped(number: int) -> None:
    frame = ether(0, 1) / IPv6(src=ip6_of(0), dst=ip6_of(1), nh=60) / Raw(bytes([number, 0]) + bytes(30))
    assert Segment().reason(0, frame) == "nd"


@pytest.mark.parametrize("payload", [ICMPv6ND_NS(tgt=ip6_of(1)), ICMPv6ND_NA(tgt=ip6_of(0)), ICMPv6ND_RS()])
def test_l5_discovery_from_beyond_the_link_is_dropped(payload: Packet) -> None:
    assert Segment().reason(0, multicast(0, payload, hop_limit=254)) == "nd"
    assert Segment().reaches(0, multicast(0, payload)) == ALL


def test_l5_discovery_without_its_target_is_dropped() -> None:
    frame = bytes(multicast(0, ICMPv6ND_NA(tgt=ip6_of(0))))
    assert Segment().reason(0, frame[: 14 + 40 + 23]) == "nd"


@pytest.mark.parametrize("sport", [547, 1547])
def test_l5_a_guest_that_plays_dhcpv6_server_is_dropped(sport: int) -> None:
    frame = ether(0, 1) / IPv6(src=link_local_of(0), dst=link_local_of(1)) / UDP(sport=sport, dport=546)
    assert Segment().reason(0, frame) == "dhcp"
    assert Segment().reaches(
        0, ether(0, 1) / IPv6(src=link_local_of(0), dst=link_local_of(1)) / TCP(sport=547)
    ) == {1}


def test_router_advertisements_of_the_uplink_pass() -> None:
    frame = multicast(0, ICMPv6ND_RA(), src="fe80::1")
    frame.src = "02:00:00:00:00:fe"
    assert Segment().reaches(UPLINK, frame) == {0, 1, 2}


def test_without_a_prefix_only_routers_and_servers_are_looked_for() -> None:
    segment = Segment()
    segment.switch.set_network(segment.lab, 0, SwitchNetwork())
    assert segment.reaches(0, udp6(0, 1, src="2001:db8::1")) == {1}
    assert segment.reaches(0, multicast(0, ICMPv6ND_NA(tgt="2001:db8::1"))) == ALL
    assert segment.reason(0, multicast(0, ICMPv6ND_RA())) == "nd"


@pytest.mark.parametrize("size", [0, 39])
def test_less_than_a_header_is_no_packet(size: int) -> None:
    assert Segment().reason(0, bytes(udp6(0, 1))[: 14 + size]) == "short"
