"""What a door takes for a packet: everything else is dropped for a reason, whatever its bytes are."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)

from arcbox_net.relay._testing import checksum, parse
from tests.support.packets import (
    DATA_VALID,
    GUEST4,
    GUEST6,
    ICMP,
    IP,
    NEEDS_CSUM,
    TCP,
    UDP,
    IPv6,
    frame,
    header,
    ip,
    tcp,
)

FOUR, SIX = "198.51.100.1", "2001:db8::1"
both_families = pytest.mark.parametrize("dst", [FOUR, SIX], ids=["ipv4", "ipv6"])


def mapped(address: str) -> bytes:
    packed = ipaddress.ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def parsed(raw: bytes) -> dict[str, Any]:
    found = parse(raw)
    assert isinstance(found, dict), found
    return found


@both_families
def test_a_syn_is_understood(dst: str) -> None:
    raw = tcp(dst, 443, sport=1234, options=[("MSS", 1460), ("SAckOK", b""), ("WScale", 7)])
    found = parsed(raw)
    size = 40 if ":" in dst else 20
    assert found["version"] == (6 if ":" in dst else 4)
    assert (found["protocol"], found["src_port"], found["dst_port"]) == (6, 1234, 443)
    assert (found["src"], found["dst"]) == (mapped(GUEST6 if ":" in dst else GUEST4), mapped(dst))
    assert (found["ip"], found["l4"], found["payload"]) == (12, 12 + size, len(raw))
    assert (found["ip_size"], found["payload_size"]) == (len(raw) - 12, 0)


@both_families
def test_a_datagram_is_understood(dst: str) -> None:
    raw = frame(ip(dst) / UDP(sport=5, dport=53) / b"question")
    found = parsed(raw)
    assert (found["protocol"], found["dst_port"], found["payload_size"]) == (17, 53, 8)
    assert raw[found["payload"] :] == b"question"


@pytest.mark.parametrize(
    "packet",
    [ip(FOUR) / ICMP() / (b"x" * 9), ip(SIX) / ICMPv6EchoRequest(data=b"x" * 9)],
    ids=["ipv4", "ipv6"],
)
def test_an_echo_request_is_understood(packet: Any) -> None:
    assert parsed(frame(packet))["payload_size"] == 9


def test_ipv4_options_are_stepped_over() -> None:
    raw = frame(IP(src=GUEST4, dst=FOUR, options=[b"\x01" * 40]) / TCP(flags="S"))
    assert parsed(raw)["l4"] == 12 + 60


def test_ipv6_options_are_stepped_over() -> None:
    packet = ip(SIX) / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]) / IPv6ExtHdrDestOpt() / TCP()
    assert parsed(frame(packet))["l4"] == 12 + 40 + 16 + 8


def test_bytes_after_the_packet_are_left_out() -> None:
    raw = frame(ip(FOUR) / UDP(sport=1, dport=2) / b"abc")
    assert parsed(raw + b"trailer")["ip_size"] == len(raw) - 12


def test_a_chain_of_eight_extension_headers_is_the_longest() -> None:
    def chain(n: int) -> bytes:
        packet = ip(SIX)
        for _ in range(n):
            packet /= IPv6ExtHdrDestOpt()
        return frame(packet / UDP(sport=1, dport=2))

    assert parsed(chain(8))["protocol"] == 17
    assert parse(chain(9)) == "drop_ip_header"


def test_a_datagram_without_a_checksum_is_taken_over_ipv4_only() -> None:
    assert parsed(frame(ip(FOUR) / UDP(sport=1, dport=2, chksum=0) / b"x"))
    assert parse(frame(ip(SIX) / UDP(sport=1, dport=2, chksum=0) / b"x")) == "drop_checksum"


def test_a_checksum_that_is_still_to_be_computed_is_not_verified() -> None:
    packet = ip(FOUR) / TCP(chksum=1)
    assert parsed(frame(packet, flags=NEEDS_CSUM, csum_start=20, csum_offset=16))
    assert parsed(frame(packet, flags=DATA_VALID))


def test_segments_of_a_datagram_come_as_one_packet() -> None:
    packet = ip(FOUR) / UDP(sport=1, dport=2) / (b"x" * 3000)
    raw = frame(packet, flags=NEEDS_CSUM, gso_type=5, gso_size=1000, csum_start=20, csum_offset=6)
    assert parsed(raw)["payload_size"] == 3000


V4 = bytes(ip(FOUR) / UDP(sport=1, dport=2) / b"abc")
V6 = bytes(ip(SIX) / UDP(sport=1, dport=2) / b"abc")
PARTIAL = {"flags": NEEDS_CSUM, "csum_start": 20, "csum_offset": 6}


def put(raw: bytes, offset: int, value: bytes) -> bytes:
    return header() + raw[:offset] + value + raw[offset + len(value) :]


def datagrams(count: int) -> bytes:
    """A super-frame of *count* datagrams with ten bytes each."""
    return frame(ip(FOUR) / UDP() / bytes(10 * count), **PARTIAL, gso_type=5, gso_size=10)


def test_as_many_segments_as_a_socket_makes_are_understood() -> None:
    assert parsed(datagrams(128))["payload_size"] == 1280


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "drop_short", id="nothing"),
        pytest.param(header(), "drop_short", id="only a virtio_net_hdr"),
        pytest.param(header() + b"\x50", "drop_ip_header", id="version 5"),
        pytest.param(header() + V4[:19], "drop_ip_header", id="ipv4 cut"),
        pytest.param(put(V4, 0, b"\x44"), "drop_ip_header", id="ihl 4"),
        pytest.param(put(V4, 0, b"\x4f"), "drop_ip_header", id="ihl behind the end"),
        pytest.param(put(V4, 2, b"\x00\x13"), "drop_ip_header", id="total length below ihl"),
        pytest.param(put(V4, 2, b"\x00\x20"), "drop_ip_header", id="total length beyond what came"),
        pytest.param(put(V4, 6, b"\x20\x00"), "drop_fragment", id="first fragment"),
        pytest.param(put(V4, 6, b"\x00\x01"), "drop_fragment", id="last fragment"),
        pytest.param(put(V4, 9, b"\x84"), "drop_protocol", id="sctp"),
        pytest.param(put(V4, 9, b"\x3a"), "drop_protocol", id="icmpv6 over ipv4"),
        pytest.param(put(V4, 24, b"\x00\x07"), "drop_l4_header", id="udp length 7"),
        pytest.param(put(V4, 24, b"\x00\x0c"), "drop_l4_header", id="udp length beyond the packet"),
        pytest.param(put(V4, 30, b"X"), "drop_checksum", id="udp checksum"),
        pytest.param(frame(IP(src=FOUR, dst=FOUR) / UDP()), "drop_address", id="to its own source"),
        pytest.param(header() + V6[:39], "drop_ip_header", id="ipv6 cut"),
        pytest.param(put(V6, 4, b"\x00\x0c"), "drop_ip_header", id="payload length beyond what came"),
        pytest.param(put(V6, 6, b"\x3b"), "drop_protocol", id="no next header"),
        pytest.param(put(V6, 6, b"\x3c"), "drop_ip_header", id="options that lead outside"),
        pytest.param(frame(ip(SIX) / IPv6ExtHdrFragment() / UDP()), "drop_fragment", id="atomic fragment"),
        pytest.param(frame(ip(SIX) / IPv6ExtHdrRouting() / UDP()), "drop_protocol", id="routing header"),
        pytest.param(
            frame(ip(SIX) / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / UDP()),
            "drop_protocol",
            id="hop-by-hop not first",
        ),
        pytest.param(frame(ip("::ffff:10.0.0.1") / UDP()), "drop_address", id="mapped destination"),
        pytest.param(frame(ip(FOUR) / TCP(dataofs=4)), "drop_l4_header", id="tcp doff 4"),
        pytest.param(frame(ip(FOUR) / TCP(dataofs=6)), "drop_l4_header", id="tcp doff behind the end"),
        pytest.param(frame(ip(FOUR) / TCP(chksum=1)), "drop_checksum", id="tcp checksum"),
        pytest.param(frame(ip(SIX) / TCP(chksum=1)), "drop_checksum", id="tcp checksum over ipv6"),
        pytest.param(frame(ip(FOUR) / ICMP(type=0)), "drop_protocol", id="echo reply"),
        pytest.param(frame(ip(FOUR) / ICMP(code=1)), "drop_l4_header", id="echo request with a code"),
        pytest.param(frame(ip(FOUR) / ICMP(chksum=1)), "drop_checksum", id="icmp checksum"),
        pytest.param(frame(ip(SIX) / ICMPv6ND_NS()), "drop_protocol", id="neighbour solicitation"),
        pytest.param(frame(ip(FOUR, proto=1) / b"1234567"), "drop_l4_header", id="seven bytes of icmp"),
        pytest.param(frame(V4, flags=4), "drop_virtio", id="an unknown flag"),
        pytest.param(frame(V4, flags=1, csum_start=21, csum_offset=6), "drop_virtio", id="csum_start"),
        pytest.param(frame(V4, flags=1, csum_start=20, csum_offset=7), "drop_virtio", id="csum_offset"),
        pytest.param(frame(V4, gso_type=5, gso_size=9), "drop_virtio", id="segments with one checksum"),
        pytest.param(frame(V4, **PARTIAL, gso_type=5), "drop_virtio", id="segments of no size"),
        pytest.param(frame(V4, **PARTIAL, gso_type=1, gso_size=9), "drop_virtio", id="udp as tcp segments"),
        pytest.param(datagrams(129), "drop_virtio", id="more segments than a socket makes"),
    ],
)
def test_a_packet_that_is_wrong_is_dropped_for_a_reason(raw: bytes, reason: str) -> None:
    assert parse(raw) == reason


def _check(raw: bytes) -> None:
    """Whatever is said of *raw* stays within it."""
    found = parse(raw)
    if isinstance(found, str):
        assert found.startswith("drop_")
        return
    assert found["ip"] == 12
    assert found["ip"] + found["ip_size"] <= len(raw)
    assert found["l4"] + found["l4_size"] <= found["ip"] + found["ip_size"]
    assert found["payload"] >= found["l4"] + 8
    assert found["payload"] + found["payload_size"] == found["l4"] + found["l4_size"]
    assert found["version"] == raw[12] >> 4


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(raw: bytes) -> None:
    _check(raw)


@given(
    st.sampled_from([V4, V6, bytes(ip(FOUR) / TCP()), bytes(ip(SIX) / IPv6ExtHdrDestOpt() / TCP())]),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6),
    st.integers(0, 90),
    st.sampled_from([header(), header(flags=DATA_VALID), header(flags=1, csum_start=40, csum_offset=6)]),
)
def test_a_packet_with_some_bytes_changed_is_survived(
    packet: bytes, changes: list[tuple[int, int]], cut: int, virtio: bytes
) -> None:
    raw = bytearray(packet)
    for at, value in changes:
        if at < len(raw):
            raw[at] = value
    _check(virtio + bytes(raw[: len(raw) - min(cut, len(raw)) if cut > 60 else len(raw)]))


@given(st.lists(st.tuples(st.sampled_from([0, 43, 44, 51, 60, 6, 17]), st.integers(0, 3)), max_size=12))
def test_any_chain_of_extension_headers_ends(chain: list[tuple[int, int]]) -> None:
    body = b"".join(
        struct.pack("BB", following, length) + bytes(6 + 8 * length)
        for (following, _), (_, length) in zip([*chain[1:], (6, 0)], chain, strict=False)
    )
    first = chain[0][0] if chain else 6
    packet = bytes(IPv6(src=GUEST6, dst=SIX, nh=first, plen=len(body) + 20)) + body + bytes(TCP())
    _check(header(flags=DATA_VALID) + packet)


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_rfc_1071(raw: bytes) -> None:
    total = sum(struct.unpack(f"={(len(raw) + 1) // 2}H", raw + b"\0" * (len(raw) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(raw) == total
