"""IPv6 headers and the chains behind them, beside scapy's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet

from arcbox_net.wire._testing_headers import (
    ipv6,
    ipv6_can_be_quoted,
    ipv6_fragment,
    ipv6_upper_of,
    ipv6_upper_of_first_fragment,
)
from tests.support.packets import UDP, IPv6

HOP_BY_HOP, ROUTING, FRAGMENT, OPTIONS, UDP_NUMBER = 0, 43, 44, 60, 17


def six(*layers: Packet) -> bytes:
    packet = IPv6(src="2001:db8::1", dst="2001:db8::2")
    for layer in layers:
        packet = packet / layer
    return bytes(packet)


def destination(count: int) -> list[Packet]:
    return [IPv6ExtHdrDestOpt() for _ in range(count)]


@given(hop_limit=st.integers(0, 255), number=st.integers(0, 255), size=st.integers(0, 60))
def test_a_header_is_read_as_scapy_writes_it(hop_limit: int, number: int, size: int) -> None:
    raw = bytes(IPv6(src="::1", dst="::2", hlim=hop_limit, nh=number) / bytes(size))
    assert ipv6(raw + b"padding") == {
        "total_length": 40 + size,
        "next_header": number,
        "hop_limit": hop_limit,
    }


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(six()[:39], id="short"),
        pytest.param(b"\x40" + six()[1:], id="version 4"),
        pytest.param(six(UDP())[:-1], id="payload past the frame"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_frame_is_none(raw: bytes) -> None:
    assert ipv6(raw) is None


@given(count=st.integers(0, 7), hop_by_hop=st.booleans(), padding=st.integers(0, 30))
def test_the_upper_layer_is_found_behind_options(count: int, hop_by_hop: bool, padding: int) -> None:
    chain = [IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(padding))])] if hop_by_hop else []
    raw = six(*chain, *destination(count), UDP() / b"x")
    assert ipv6_upper_of(raw) == ("ok", UDP_NUMBER, len(raw) - 9)


@pytest.mark.parametrize(("count", "says"), [(8, "ok"), (9, "bad")])
def test_a_chain_has_eight_headers_at_most(count: int, says: str) -> None:
    """F12"""
    assert ipv6_upper_of(six(*destination(count), UDP()))[0] == says


def test_hop_by_hop_comes_first_or_is_the_upper_layer() -> None:
    raw = six(IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), UDP())
    assert ipv6_upper_of(raw) == ("ok", HOP_BY_HOP, 48)


def test_a_routing_header_is_not_followed() -> None:
    assert ipv6_upper_of(six(IPv6ExtHdrRouting(), UDP())) == ("ok", ROUTING, 40)


@pytest.mark.parametrize("left", [0, 1, 7])
def test_an_extension_header_that_is_cut_off_is_bad(left: int) -> None:
    raw = bytes(IPv6(nh=OPTIONS) / bytes(left))
    assert ipv6_upper_of(raw)[0] == "bad"
    assert ipv6_upper_of(bytes(IPv6(nh=FRAGMENT) / bytes(left)))[0] == "bad"


@pytest.mark.parametrize(("units", "says"), [(1, "ok"), (2, "bad")])
def test_an_extension_header_ends_within_the_packet(units: int, says: str) -> None:
    raw = bytes(IPv6(nh=OPTIONS) / bytes([UDP_NUMBER, units, *[0] * 14]))
    assert ipv6_upper_of(raw)[0] == says


@given(offset=st.integers(0, 0x1FFF), more=st.booleans(), ident=st.binary(min_size=4, max_size=4))
@pytest.mark.parametrize("ahead", [0, 3])
def test_a_fragment_header_is_found_and_read(ahead: int, offset: int, more: bool, ident: bytes) -> None:
    fragment = IPv6ExtHdrFragment(offset=offset, m=more, id=int.from_bytes(ident), nh=UDP_NUMBER)
    raw = six(*destination(ahead), fragment, bytes(16))
    says, _, at = ipv6_upper_of(raw)
    assert (says, at) == ("fragment", 40 + 8 * ahead)
    assert ipv6_fragment(raw, at) == {
        "offset": 8 * offset,
        "more": more,
        "is_atomic": not more and offset == 0,
        "identification": ident,
        "possible": 8 * offset <= 65535 - 8 * ahead - 16,
    }


@pytest.mark.parametrize(("size", "possible"), [(0, False), (7, False), (8, True), (9, False)])
def test_only_the_last_fragment_may_have_an_odd_size(size: int, possible: bool) -> None:
    """F5, F8"""
    more = six(IPv6ExtHdrFragment(m=1), bytes(size))
    last = six(IPv6ExtHdrFragment(offset=1), bytes(size))
    assert ipv6_fragment(more, 40)["possible"] is possible
    assert ipv6_fragment(last, 40)["possible"] is (size > 0)


def test_the_first_fragment_has_all_headers() -> None:
    """F12, RFC 7112"""
    whole = six(IPv6ExtHdrDestOpt(), IPv6ExtHdrFragment(m=1), IPv6ExtHdrDestOpt(), UDP())
    assert ipv6_upper_of_first_fragment(whole) == ("ok", UDP_NUMBER, len(whole) - 8)
    cut = six(IPv6ExtHdrFragment(m=1, nh=OPTIONS), bytes([UDP_NUMBER, 1, *[0] * 6]))
    assert ipv6_upper_of_first_fragment(cut)[0] == "bad"


@pytest.mark.parametrize(("behind", "says"), [(4, "ok"), (5, "bad")])
def test_a_fragment_header_counts_among_the_eight(behind: int, says: str) -> None:
    """F12"""
    raw = six(*destination(3), IPv6ExtHdrFragment(m=1), *destination(behind), UDP())
    assert ipv6_upper_of_first_fragment(raw)[0] == says


def test_a_fragment_of_a_fragment_is_not_followed() -> None:
    raw = six(IPv6ExtHdrFragment(m=1), IPv6ExtHdrFragment(m=1), UDP())
    assert ipv6_upper_of_first_fragment(raw)[0] == "fragment"


def test_a_packet_without_a_fragment_header_has_no_first_fragment() -> None:
    assert ipv6_upper_of_first_fragment(six(UDP()))[0] == "bad"


@given(raw=st.binary(max_size=120))
def test_any_chain_is_walked_to_an_end_within_the_packet(raw: bytes) -> None:
    packet = bytes(IPv6(nh=OPTIONS) / raw)
    says, _, offset = ipv6_upper_of(packet)
    assert says in ("ok", "bad", "fragment")
    assert 40 <= offset <= len(packet)


@pytest.mark.parametrize(("size", "possible"), [(47, False), (48, True)])
def test_a_quote_needs_eight_bytes_behind_its_header(size: int, possible: bool) -> None:
    """I6"""
    assert ipv6_can_be_quoted(bytes(IPv6(plen=1400) / bytes(100))[:size]) is possible
    assert ipv6_can_be_quoted(b"\x40" + bytes(IPv6() / bytes(100))[1:size]) is False
