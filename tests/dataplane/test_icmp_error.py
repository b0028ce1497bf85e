"""ICMP errors about translated packets, in both directions and between guests."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_icmp import ErrorFlows
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.packets import NEEDS_CSUM, header

GUEST, OTHER, REMOTE, ROUTER = "192.168.64.9", "192.168.64.10", "198.51.100.7", "192.0.2.99"
EXTERNAL = "203.0.113.1"
OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND
FORWARD, HAIRPIN = Verdict.VERDICT_FORWARD, Verdict.VERDICT_HAIRPIN
BAD, NO_FLOW = Verdict.DROP_BAD_ICMP, Verdict.DROP_ICMP_NO_FLOW
UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM = 3, 11, 12
PROTOCOLS = {TCP: 6, UDP: 17, ICMP: 1}


class Ends(NamedTuple):
    src: str
    sport: int
    dst: str
    dport: int

    def packed(self) -> bytes:
        return struct.pack(
            "!4s4sHH", socket.inet_aton(self.src), socket.inet_aton(self.dst), self.sport, self.dport
        )

    def turned(self) -> Ends:
        return Ends(self.dst, self.dport, self.src, self.sport)


SENT, LEFT = Ends(GUEST, 5000, REMOTE, 80), Ends(EXTERNAL, 61000, REMOTE, 80)
ECHO_SENT, ECHO_LEFT = Ends(GUEST, 77, REMOTE, 0), Ends(EXTERNAL, 61001, REMOTE, 0)
A_SENT, B_GOT = Ends(GUEST, 7000, EXTERNAL, 62001), Ends(EXTERNAL, 62000, OTHER, 8000)


def flows() -> ErrorFlows:
    """A flow of each protocol to a host outside, and one of each to another guest."""
    f = ErrorFlows()
    for protocol in (6, 17):
        f.open(protocol, SENT.packed(), LEFT.packed())
        f.open(protocol, A_SENT.packed(), B_GOT.packed(), hairpin=True)
    f.open(1, ECHO_SENT.packed(), ECHO_LEFT.packed())
    return f


def packet(l4: type[Packet], ends: Ends, size: int = 0, **ip: object) -> bytes:
    """A packet with right checksums."""
    head = IP(src=ends.src, dst=ends.dst, ttl=ip.pop("ttl", 1), **ip)
    if l4 is ICMP:
        return bytes(head / ICMP(type=8, id=ends.sport, seq=3) / Raw(bytes(size)))
    return bytes(head / l4(sport=ends.sport, dport=ends.dport) / Raw(bytes(size)))


def error(
    quote: bytes, src: str = ROUTER, dst: str = EXTERNAL, *, type: int = UNREACHABLE, code: int = 1, rest: int = 0,
    **ip: object,
) -> bytes:  # fmt: skip
    return bytes(
        IP(src=src, dst=dst, proto=1, **ip) / Raw(seal(struct.pack("!BBHI", type, code, 0, rest) + quote))
    )


def seal(icmp: bytes) -> bytes:
    """The message with its checksum."""
    padded = icmp + b"\0" * (len(icmp) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return icmp[:2] + (~total & 0xFFFF).to_bytes(2) + icmp[4:]


def assert_outer_is_right(frame: bytes) -> None:
    """Length and checksum of the header, and the checksum of the message."""
    head = IP(frame)
    again = IP(frame)
    del again.chksum
    assert head.len == len(frame)
    assert bytes(again)[: head.ihl * 4] == frame[: head.ihl * 4]
    message = frame[head.ihl * 4 :]
    assert seal(message[:2] + b"\0\0" + message[4:]) == message


FLOWS = [
    pytest.param(TCP, SENT, LEFT, id="tcp"),
    pytest.param(UDP, SENT, LEFT, id="udp"),
    pytest.param(ICMP, ECHO_SENT, ECHO_LEFT, id="echo"),
]


@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 4, [IPOption_Router_Alert()] * 10], ids=len)
@pytest.mark.parametrize("size", [0, 100, 548, 1472])
@pytest.mark.parametrize(("l4", "sent", "left"), FLOWS)
def test_i2_i6_the_guest_finds_the_packet_that_it_sent_in_the_quote(
    l4: type[Packet], sent: Ends, left: Ends, size: int, options: list[object]
) -> None:
    quoted, expected = (packet(l4, ends, size, options=options) for ends in (left, sent))
    verdict, frame = flows().translate(error(quoted, ttl=9), INBOUND)
    assert verdict == FORWARD
    assert (IP(frame).src, IP(frame).dst, IP(frame).ttl) == (ROUTER, GUEST, 8)
    assert frame[28:] == expected
    assert_outer_is_right(frame)


@pytest.mark.parametrize(("l4", "sent", "left"), FLOWS)
def test_i3_the_outside_finds_the_packet_that_it_sent_in_the_quote(
    l4: type[Packet], sent: Ends, left: Ends
) -> None:
    def answer(ends: Ends) -> bytes:
        if l4 is not ICMP:
            return packet(l4, ends.turned(), 64)
        return bytes(IP(src=ends.dst, dst=ends.src, ttl=1) / ICMP(type=0, id=ends.sport) / Raw(bytes(64)))

    verdict, frame = flows().translate(error(answer(sent), GUEST, REMOTE, code=3), OUTBOUND)
    assert verdict == FORWARD
    assert (IP(frame).src, IP(frame).dst) == (EXTERNAL, REMOTE)
    assert frame[28:] == answer(left)
    assert_outer_is_right(frame)


def test_i3_an_error_about_what_another_guest_was_sent_is_dropped() -> None:
    assert flows().translate(error(packet(UDP, SENT.turned()), "192.168.64.200", REMOTE), OUTBOUND)[0] == BAD


@pytest.mark.parametrize("l4", [TCP, UDP])
def test_i5_n9_errors_pass_between_guests_as_packets_do(l4: type[Packet]) -> None:
    verdict, frame = flows().translate(error(packet(l4, B_GOT, 32), OTHER, EXTERNAL, code=3), OUTBOUND)
    assert verdict == HAIRPIN
    assert (IP(frame).src, IP(frame).dst) == (EXTERNAL, GUEST)
    assert frame[28:] == packet(l4, A_SENT, 32)
    assert_outer_is_right(frame)


@pytest.mark.parametrize("l4", [TCP, UDP])
def test_i5_errors_about_the_answers_of_a_guest_pass_too(l4: type[Packet]) -> None:
    verdict, frame = flows().translate(error(packet(l4, A_SENT.turned(), 32), GUEST, EXTERNAL), OUTBOUND)
    assert verdict == HAIRPIN
    assert (IP(frame).src, IP(frame).dst) == (EXTERNAL, OTHER)
    assert frame[28:] == packet(l4, B_GOT.turned(), 32)


@given(ports=st.tuples(*[st.integers(1, 65535)] * 3), fill=st.binary(min_size=32, max_size=40))
def test_checksums_in_the_quote_stay_right_for_any_ports(ports: tuple[int, int, int], fill: bytes) -> None:
    sent, left = Ends(GUEST, ports[0], REMOTE, ports[2]), Ends(EXTERNAL, ports[1], REMOTE, ports[2])
    for l4 in (TCP, UDP):
        f = ErrorFlows()
        f.open(PROTOCOLS[l4], sent.packed(), left.packed())
        quoted, expected = (
            bytes(IP(src=ends.src, dst=ends.dst) / l4(sport=ends.sport, dport=ends.dport) / Raw(fill))
            for ends in (left, sent)
        )
        verdict, frame = f.translate(error(quoted), INBOUND)
        assert (verdict, frame[28:]) == (FORWARD, expected)


def test_a_quoted_udp_checksum_of_0_stays() -> None:
    quoted = bytearray(packet(UDP, LEFT, 20))
    quoted[26:28] = bytes(2)
    _, frame = flows().translate(error(bytes(quoted)), INBOUND)
    assert frame[28 + 26 : 28 + 28] == bytes(2)


@pytest.mark.parametrize("l4_bytes", range(8, 21))
@pytest.mark.parametrize("l4", [TCP, UDP])
def test_i6_a_quote_may_end_anywhere_behind_eight_bytes(l4: type[Packet], l4_bytes: int) -> None:
    quoted, expected = packet(l4, LEFT)[: 20 + l4_bytes], packet(l4, SENT)[: 20 + l4_bytes]
    verdict, frame = flows().translate(error(quoted), INBOUND)
    assert verdict == FORWARD
    if l4 is TCP and l4_bytes < 18:
        assert frame[28 + 36 :] == quoted[36:]
    else:
        assert frame[28:] == expected
    assert_outer_is_right(frame)


@pytest.mark.parametrize("l4_bytes", range(8))
def test_i6_a_quote_without_ports_is_dropped(l4_bytes: int) -> None:
    quoted = packet(UDP, LEFT, 20)[: 20 + l4_bytes]
    assert flows().translate(error(quoted), INBOUND) == (BAD, error(quoted))


def test_i6_a_quoted_packet_that_says_it_has_no_ports_is_dropped() -> None:
    quoted = bytes(IP(src=EXTERNAL, dst=REMOTE, proto=17, len=24) / Raw(packet(UDP, LEFT)[20:]))
    assert flows().translate(error(quoted), INBOUND)[0] == BAD


def test_i6_a_quoted_later_fragment_belongs_to_no_flow_and_a_first_one_does() -> None:
    assert flows().translate(error(packet(UDP, LEFT, 64, frag=1)), INBOUND)[0] == NO_FLOW
    verdict, frame = flows().translate(error(packet(UDP, LEFT, 64, flags="MF")), INBOUND)
    assert (verdict, frame[28:]) == (FORWARD, packet(UDP, SENT, 64, flags="MF"))


def broken(frame: bytes, at: int) -> bytes:
    """With a bit wrong at *at*."""
    return frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]


@pytest.mark.parametrize("at", [21, 22, 28, 28 + 40], ids=["code", "checksum", "quote", "payload"])
def test_i1_a_wrong_checksum_of_the_error_is_dropped(at: int) -> None:
    frame = broken(error(packet(UDP, LEFT, 64)), at)
    assert flows().translate(frame, INBOUND) == (BAD, frame)


@pytest.mark.parametrize("at", range(2, 20))
def test_i1_a_wrong_checksum_of_the_quoted_header_is_dropped(at: int) -> None:
    assert flows().translate(error(broken(packet(UDP, LEFT, 64), at)), INBOUND)[0] == BAD


@pytest.mark.parametrize(("l4", "at"), [(TCP, 36), (UDP, 26), (ICMP, 22), (UDP, 60)])
def test_i1_the_quoted_l4_checksum_is_not_validated(l4: type[Packet], at: int) -> None:
    left, sent = (ECHO_LEFT, ECHO_SENT) if l4 is ICMP else (LEFT, SENT)
    verdict, frame = flows().translate(error(broken(packet(l4, left, 64), at)), INBOUND)
    assert verdict == FORWARD
    assert frame[28:40] == packet(l4, sent, 64)[:12]


EXTENSION = bytes.fromhex("2000dfff00080101abcde00f")


@pytest.mark.parametrize("type", [UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM])
@pytest.mark.parametrize("quoted_size", [128, 256])
def test_i1_extensions_behind_the_quote_are_preserved(type: int, quoted_size: int) -> None:
    quoted = packet(UDP, LEFT, 20).ljust(quoted_size, b"\0") + EXTENSION
    verdict, frame = flows().translate(error(quoted, type=type, rest=quoted_size // 4 << 16), INBOUND)
    assert verdict == FORWARD
    assert frame[24:28] == (quoted_size // 4 << 16).to_bytes(4)
    assert frame[28:] == packet(UDP, SENT, 20).ljust(quoted_size, b"\0") + EXTENSION
    assert_outer_is_right(frame)


def test_i1_extensions_are_not_taken_for_the_quoted_packet() -> None:
    quoted = packet(TCP, LEFT)[:32]
    rewritten = flows().translate(error(quoted + EXTENSION, rest=8 << 16), INBOUND)[1]
    assert rewritten[28 + 32 :] == EXTENSION
    assert flows().translate(error(packet(UDP, LEFT, 40), rest=6 << 16), INBOUND)[0] == BAD


@pytest.mark.parametrize("padding", [1, 3, 46])
def test_i1_padding_behind_the_quoted_packet_is_preserved(padding: int) -> None:
    quoted = packet(UDP, LEFT, 5) + b"\xa5" * padding
    verdict, frame = flows().translate(error(quoted), INBOUND)
    assert (verdict, frame[28:]) == (FORWARD, packet(UDP, SENT, 5) + b"\xa5" * padding)
    assert_outer_is_right(frame)


@pytest.mark.parametrize("type", [UNREACHABLE, TIME_EXCEEDED, PARAMETER_PROBLEM])
@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 13])
def test_i8_type_and_code_stay(type: int, code: int) -> None:
    frame = flows().translate(error(packet(UDP, LEFT), type=type, code=code, rest=0xAB000000), INBOUND)[1]
    assert frame[20:22] + frame[24:28] == bytes([type, code, 0xAB, 0, 0, 0])


@pytest.mark.parametrize("type", [4, 5, 1, 2, 6, 30, 31, 42, 255])
def test_i8_other_messages_are_not_passed_on(type: int) -> None:
    assert flows().translate(error(packet(UDP, LEFT), type=type), INBOUND)[0] == BAD


@pytest.mark.parametrize(
    "quoted",
    [
        pytest.param(packet(UDP, LEFT._replace(sport=61002)), id="port-of-nobody"),
        pytest.param(packet(UDP, LEFT._replace(dport=81)), id="other-remote-port"),
        pytest.param(packet(UDP, LEFT._replace(dst="198.51.100.8")), id="other-remote"),
        pytest.param(bytes(IP(src=EXTERNAL, dst=REMOTE, proto=132) / Raw(packet(UDP, LEFT)[20:])), id="sctp"),
        pytest.param(bytes(IP(src=EXTERNAL, dst=REMOTE) / ICMP(type=8, id=1)), id="echo-of-nobody"),
        pytest.param(bytes(IP(src=EXTERNAL, dst=REMOTE) / ICMP(type=13, id=61001)), id="timestamp"),
        pytest.param(
            bytes(IP(src=EXTERNAL, dst=REMOTE) / ICMP(type=3) / packet(UDP, LEFT)), id="i7-an-error"
        ),
    ],
)
def test_i2_an_error_about_a_packet_of_no_flow_is_dropped(quoted: bytes) -> None:
    assert flows().translate(error(quoted), INBOUND) == (NO_FLOW, error(quoted))


def test_an_error_that_is_not_for_the_sender_of_what_it_quotes_is_dropped() -> None:
    assert flows().translate(error(packet(UDP, LEFT), dst="203.0.113.2"), INBOUND)[0] == BAD


def test_a_guest_cannot_send_errors_about_packets_of_the_outside_direction() -> None:
    assert flows().translate(error(packet(UDP, LEFT), GUEST, EXTERNAL), OUTBOUND)[0] == BAD


@pytest.mark.parametrize("source", [ROUTER, REMOTE, "10.0.0.1", "100.64.0.1", EXTERNAL])
def test_n12_an_error_may_come_from_anywhere(source: str) -> None:
    verdict, frame = flows().translate(error(packet(UDP, LEFT), source), INBOUND)
    assert (verdict, IP(frame).src) == (FORWARD, source)


@given(
    type=st.integers(0, 255), code=st.integers(0, 255), rest=st.integers(0, 2**32 - 1),
    l4=st.sampled_from([TCP, UDP]), at=st.integers(0, 60), inbound=st.booleans(),
)  # fmt: skip
def test_n12_i4_no_error_changes_a_flow(
    type: int, code: int, rest: int, l4: type[Packet], at: int, inbound: bool
) -> None:
    f = flows()
    f.acknowledge(1, 0, 65535)
    before = [f.half(half) for half in range(10)]
    quoted = packet(l4, LEFT if inbound else SENT.turned(), 20)
    source, destination = (ROUTER, EXTERNAL) if inbound else (GUEST, REMOTE)
    for frame in (quoted, broken(quoted, min(at, len(quoted) - 1))):
        sent = error(frame, source, destination, type=type, code=code, rest=rest)
        f.translate(sent, INBOUND if inbound else OUTBOUND)
    assert [f.half(half) for half in range(10)] == before


@pytest.mark.parametrize(
    ("mtu", "verdict"),
    [(0, BAD), (67, BAD), (68, FORWARD), (1280, FORWARD), (1427, FORWARD), (1428, BAD), (65535, BAD)],
)
@pytest.mark.parametrize("direction", [INBOUND, OUTBOUND])
def test_i11_an_mtu_that_the_packet_did_not_exceed_is_ignored(
    mtu: int, verdict: Verdict, direction: int
) -> None:
    inbound = direction == INBOUND
    quoted = packet(UDP, LEFT if inbound else SENT.turned(), 1400, flags="DF")
    source, destination = (ROUTER, EXTERNAL) if inbound else (GUEST, REMOTE)
    sent = error(quoted, source, destination, code=4, rest=mtu)
    assert flows().translate(sent, direction)[0] == verdict


@pytest.mark.parametrize(("mtu", "verdict"), [(1299, FORWARD), (1300, BAD), (1400, BAD)])
def test_i11_an_mtu_that_our_own_link_does_not_exceed_is_ignored(mtu: int, verdict: Verdict) -> None:
    sent = error(packet(UDP, LEFT, 1400), code=4, rest=mtu)
    assert flows().translate(sent, INBOUND, mtu=1300)[0] == verdict


def segment(seq: int) -> bytes:
    """As it left, of 1,500 bytes."""
    return bytes(IP(src=EXTERNAL, dst=REMOTE) / TCP(sport=61000, dport=80, seq=seq) / Raw(bytes(1460)))


@pytest.mark.parametrize(
    ("seq", "verdict"),
    [
        pytest.param(0xFFFFFF00, FORWARD, id="first-unacknowledged"),
        pytest.param(0xFFFFFEFF, BAD, id="acknowledged"),
        pytest.param(0, FORWARD, id="around-the-end"),
        pytest.param(0xFFFF, FORWARD, id="last-in-the-window"),
        pytest.param(0x10000, BAD, id="beyond-the-window"),
        pytest.param(0x7FFFFFFF, BAD, id="far"),
    ],
)
def test_i11_a_quoted_sequence_number_that_is_not_in_flight_is_ignored(seq: int, verdict: Verdict) -> None:
    f = flows()
    f.acknowledge(1, 0xFFFFFF00, 0x10000)
    quoted = segment(seq)
    assert f.translate(error(quoted, code=4, rest=1400), INBOUND)[0] == verdict
    assert f.translate(error(quoted, code=1), INBOUND)[0] == FORWARD


def test_i11_a_probe_of_a_closed_window_is_in_flight() -> None:
    f = flows()
    f.acknowledge(1, 1000, 1000)
    for seq, verdict in ((1000, FORWARD), (1001, BAD)):
        assert f.translate(error(segment(seq), code=4, rest=1400), INBOUND)[0] == verdict


def test_i11_nothing_is_in_flight_before_anything_was_acknowledged() -> None:
    assert flows().translate(error(segment(0), code=4, rest=1400), INBOUND)[0] == BAD


@pytest.mark.parametrize(("ttl", "verdict"), [(0, Verdict.DROP_TTL), (1, Verdict.DROP_TTL), (2, FORWARD)])
def test_n31_an_error_takes_a_hop_too(ttl: int, verdict: Verdict) -> None:
    assert flows().translate(error(packet(UDP, LEFT), ttl=ttl), INBOUND)[0] == verdict


def test_options_of_the_error_itself_stay() -> None:
    sent = error(packet(UDP, LEFT, 9), options=[IPOption_Router_Alert()])
    verdict, frame = flows().translate(sent, INBOUND)
    assert (verdict, frame[20:24]) == (FORWARD, bytes(IPOption_Router_Alert()))
    assert_outer_is_right(frame)


def test_the_ethernet_header_stays() -> None:
    link = bytes(Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:01", type=0x800))
    verdict, frame = flows().translate(link + error(packet(UDP, LEFT)), INBOUND, l3=14)
    assert (verdict, frame[:14], IP(frame[14:]).dst) == (FORWARD, link, GUEST)


def test_nothing_of_an_error_is_left_to_offloads() -> None:
    virtio = header(flags=NEEDS_CSUM, csum_start=20, csum_offset=2)
    assert flows().translate(error(packet(UDP, LEFT)), INBOUND, virtio=virtio)[0] == Verdict.DROP_BAD_OFFLOAD


@given(st.binary(max_size=120), st.sampled_from([3, 11, 12]), st.integers(0, 2**32 - 1), st.booleans())
def test_any_quote_is_survived(rest: bytes, type: int, word: int, headed: bool) -> None:
    quoted = (packet(UDP, LEFT)[:20] if headed else b"") + rest
    for direction in (OUTBOUND, INBOUND):
        flows().translate(error(quoted, type=type, rest=word), direction)
