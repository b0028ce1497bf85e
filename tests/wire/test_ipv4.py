"""IPv4 headers beside scapy's, and what of them is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IPOption

from arcbox_net.wire._testing_headers import (
    ipv4,
    ipv4_can_be_fragment,
    ipv4_can_be_quoted,
    ipv4_next_hop,
    ipv4_options_of,
)
from tests.support.packets import IP

octet, word, address = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
LSRR, SSRR, RECORD_ROUTE, ALERT, NOP, END = 131, 137, 7, 148, 1, 0


def header(ihl: int = 5, total: int | None = None, **fields: object) -> bytes:
    """A header with *ihl*, followed by as many bytes as it speaks of."""
    options = bytes(4 * max(ihl - 5, 0))
    total = 20 + len(options) + 8 if total is None else total
    return bytes(IP(ihl=ihl, len=total, dst="192.0.2.1", **fields))[:20] + options + bytes(8)


def with_options(*octets: int) -> bytes:
    options = bytes(octets) + bytes(-len(octets) % 4)
    return header(ihl=5 + len(options) // 4)[:20] + options + bytes(8)


@given(
    ends=st.tuples(address, address),
    ttl_protocol=st.tuples(octet, octet),
    fragment=st.tuples(word, st.integers(0, 7), st.integers(0, 0x1FFF)),
    sizes=st.tuples(st.integers(0, 10), st.integers(0, 40)),
)
def test_a_header_is_read_as_scapy_writes_it(
    ends: tuple[int, int],
    ttl_protocol: tuple[int, int],
    fragment: tuple[int, int, int],
    sizes: tuple[int, int],
) -> None:
    src, dst = map(ipaddress.IPv4Address, ends)
    (ttl, protocol), (ident, flags, offset), (options, payload) = ttl_protocol, fragment, sizes
    fields = {"ttl": ttl, "proto": protocol, "id": ident, "flags": flags, "frag": offset, "ihl": 5 + options}
    raw = bytes(IP(src=str(src), dst=str(dst), len=20 + 4 * options + payload, **fields))
    raw += b"\x01" * (4 * options + payload)
    found = ipv4(raw + b"padding")
    assert found is not None
    assert found.pop("checksum_ok") is (options == 0)  # scapy has not seen the options
    assert found == {
        "header_size": 20 + 4 * options,
        "total_length": len(raw),
        "identification": ident,
        "dont_fragment": bool(flags & 2),
        "more_fragments": bool(flags & 1),
        "fragment_offset": 8 * offset,
        "is_fragment": bool(flags & 1) or offset > 0,
        "ttl": ttl,
        "protocol": protocol,
        "source": src.packed,
        "destination": dst.packed,
    }


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(header()[:19], id="short"),
        pytest.param(b"\x55" + header()[1:], id="version 5"),
        pytest.param(header(ihl=4), id="IHL 4"),
        pytest.param(header(ihl=6, total=23), id="IHL past the total length"),
        pytest.param(header(ihl=15)[:59], id="IHL past the frame"),
        pytest.param(header(total=19), id="total length below the header"),
        pytest.param(header(total=29), id="total length past the frame"),
    ],
)
def test_a_header_that_contradicts_itself_or_the_frame_is_none(raw: bytes) -> None:
    """N33"""
    assert ipv4(raw) is None


@pytest.mark.parametrize(
    ("raw", "total"),
    [
        pytest.param(header(ihl=15), 68, id="IHL 15"),
        pytest.param(header(total=20), 20, id="nothing but a header, and padding"),
        pytest.param(header(total=28), 28, id="the whole frame"),
    ],
)
def test_a_header_at_its_limits_is_read_and_padding_is_no_part_of_it(raw: bytes, total: int) -> None:
    """N33"""
    found = ipv4(raw)
    assert found is not None
    assert found["total_length"] == total


@given(raw=st.binary(max_size=80))
def test_what_passes_the_check_lies_within_the_bytes(raw: bytes) -> None:
    found = ipv4(b"\x45" + raw)
    if found is not None:
        assert 20 <= found["header_size"] <= found["total_length"] <= len(raw) + 1


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(header(), "ok", id="none"),
        pytest.param(with_options(NOP, NOP, NOP, NOP), "ok", id="NOPs"),
        pytest.param(with_options(*[NOP] * 40), "ok", id="40 NOPs"),
        pytest.param(with_options(END, LSRR, 0, 0), "ok", id="behind the end"),
        pytest.param(with_options(ALERT, 4, 0, 0), "ok", id="router alert"),
        pytest.param(with_options(RECORD_ROUTE, 3, 4), "ok", id="record route"),
        pytest.param(with_options(LSRR, 3, 4), "source route", id="LSRR"),
        pytest.param(with_options(NOP, ALERT, 4, 0, 0, SSRR, 3, 4), "source route", id="SSRR after others"),
        pytest.param(with_options(ALERT, 0, 0, 0), "bad", id="length 0"),
        pytest.param(with_options(ALERT, 1, 0, 0), "bad", id="length 1"),
        pytest.param(with_options(NOP, ALERT, 3, 0), "ok", id="to the last byte"),
        pytest.param(with_options(NOP, ALERT, 4, 0), "bad", id="a byte past the header"),
        pytest.param(with_options(NOP, NOP, NOP, ALERT), "bad", id="no room for its length"),
        pytest.param(with_options(LSRR, 5, 4, 0), "bad", id="LSRR past the header"),
        pytest.param(with_options(*[NOP] * 38, ALERT, 2), "ok", id="in the last two bytes"),
    ],
)
def test_options_are_walked_and_source_routes_found(raw: bytes, says: str) -> None:
    """N33"""
    assert ipv4(raw) is not None
    assert ipv4_options_of(raw) == says


@given(options=st.binary(max_size=40))
def test_any_options_are_walked_to_an_end(options: bytes) -> None:
    assert ipv4_options_of(with_options(*options)) in ("ok", "bad", "source route")


@pytest.mark.parametrize(
    ("size", "possible"),
    [(0, False), (1, False), (7, False), (8, True), (9, False), (1480, True)],
)
def test_only_the_last_fragment_may_have_an_odd_size(size: int, possible: bool) -> None:
    """F5, F8"""
    assert ipv4_can_be_fragment(header(total=20 + size, flags="MF")) is possible
    assert ipv4_can_be_fragment(header(total=20 + size, frag=1)) is (size > 0)


def test_a_fragment_ends_within_the_largest_packet() -> None:
    """F3"""
    last = (65535 - 20) // 8
    assert ipv4_can_be_fragment(header(total=20 + 3, frag=last))
    assert ipv4_can_be_fragment(header(total=20 + 4, frag=last)) is False
    assert ipv4_can_be_fragment(header(total=20 + 1, frag=0x1FFF)) is False


@pytest.mark.parametrize(("cut", "possible"), [(0, False), (7, False), (8, True)])
@pytest.mark.parametrize("ihl", [5, 15])
def test_a_quote_needs_eight_bytes_behind_its_header(ihl: int, cut: int, possible: bool) -> None:
    """I6: what follows may have been cut off."""
    raw = header(ihl=ihl, total=1500)
    assert ipv4_can_be_quoted(raw[: 4 * ihl + cut]) is possible


@pytest.mark.parametrize("raw", [header(ihl=4), header(ihl=6, total=20), b"\x65" + header()[1:]])
def test_a_quote_of_something_else_is_refused(raw: bytes) -> None:
    assert ipv4_can_be_quoted(raw) is False


@given(ttl=st.integers(1, 255), ident=word, protocol=octet)
def test_a_hop_leaves_a_right_checksum(ttl: int, ident: int, protocol: int) -> None:
    raw = bytes(IP(ttl=ttl, id=ident, proto=protocol, src="192.0.2.1", dst="198.51.100.1"))
    found = ipv4(ipv4_next_hop(raw))
    assert found is not None
    assert (found["ttl"], found["checksum_ok"]) == (ttl - 1, True)


def test_a_wrong_checksum_is_told() -> None:
    right = bytes(IP(dst="192.0.2.1"))
    for raw, ok in ((right, True), (right[:19] + b"\xff", False)):
        found = ipv4(raw)
        assert found is not None
        assert found["checksum_ok"] is ok


@pytest.mark.parametrize("words", range(11))
def test_options_are_part_of_the_checksum(words: int) -> None:
    packet = IP(dst="192.0.2.1", options=[IPOption(b"\x94\x04\x12\x34")] * words)
    found = ipv4(bytes(packet))
    assert found is not None
    assert found["checksum_ok"]
    if words:
        changed = ipv4(bytes(packet)[:-1] + b"\x35")
        assert changed is not None
        assert not changed["checksum_ok"]
