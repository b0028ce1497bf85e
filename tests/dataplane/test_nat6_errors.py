"""ICMPv6 errors about translated packets, as guests and the outside hear them."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.packet import Packet

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.nat6 import EXTERNAL, GUEST, OTHER, REMOTE, engine

OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND
FORWARD, BAD = Verdict.VERDICT_FORWARD, Verdict.DROP_BAD_ICMP
ROUTER = "2001:db8:ee::1"
SIZE = 1400


def permissive() -> NatEngine:
    return engine(filtering="endpoint-independent", preserve_ports=False)


def send(nat: NatEngine, packet: Packet | bytes, direction: Direction) -> tuple[int, bytes]:
    buffer = bytearray(bytes(packet))
    return nat.translate([buffer], direction, 0)[0], bytes(buffer)


def sent(l4: Packet) -> Packet:
    """A packet with right checksums, of SIZE bytes."""
    packet = IPv6(src=GUEST, dst=REMOTE) / l4
    return IPv6(bytes(packet / bytes(SIZE - len(packet))))


@pytest.mark.parametrize("l4", [UDP(sport=5, dport=6), ICMPv6EchoRequest(id=9)], ids=["udp", "echo"])
@pytest.mark.parametrize(
    "error",
    [
        ICMPv6DestUnreach(code=4),
        ICMPv6PacketTooBig(mtu=1300),
        ICMPv6TimeExceeded(),
        ICMPv6ParamProblem(ptr=6),
    ],
    ids=["unreachable", "too-big", "time", "parameter"],
)
@pytest.mark.parametrize("quoted", [1232, 48], ids=["long", "short"])
def test_i9_an_error_from_outside_quotes_what_the_guest_sent(l4: Packet, error: Packet, quoted: int) -> None:
    nat = permissive()
    packet = sent(l4)
    _, left = send(nat, packet, OUTBOUND)
    verdict, came = send(nat, IPv6(src=ROUTER, dst=EXTERNAL) / error / left[:quoted], INBOUND)
    assert verdict == FORWARD
    packet.hlim -= 1
    expected = IPv6(src=ROUTER, dst=GUEST, hlim=63) / error / bytes(packet)[:quoted]
    assert came == bytes(expected)
    assert next(nat.flows()).reply_packets == 0


def test_i3_an_error_from_a_guest_comes_from_the_external_address() -> None:
    nat = permissive()
    _, left = send(nat, IPv6(src=GUEST, dst=REMOTE) / UDP(sport=5, dport=6), OUTBOUND)
    external = IPv6(left)
    reply = IPv6(bytes(IPv6(src=REMOTE, dst=EXTERNAL) / UDP(sport=6, dport=external.sport) / b"late"))
    _, came = send(nat, reply, INBOUND)
    verdict, told = send(nat, IPv6(src=GUEST, dst=REMOTE) / ICMPv6DestUnreach(code=4) / came, OUTBOUND)
    reply.hlim -= 1
    assert verdict == FORWARD
    assert told == bytes(IPv6(src=EXTERNAL, dst=REMOTE, hlim=63) / ICMPv6DestUnreach(code=4) / reply)


def test_i5_an_error_between_guests_is_translated_both_ways() -> None:
    nat = permissive()
    _, other = send(nat, IPv6(src=OTHER, dst=REMOTE) / UDP(sport=6000, dport=6), OUTBOUND)
    packet = IPv6(bytes(IPv6(src=GUEST, dst=EXTERNAL) / UDP(sport=5, dport=IPv6(other).sport)))
    verdict, came = send(nat, packet, OUTBOUND)
    assert verdict == Verdict.VERDICT_HAIRPIN
    error = IPv6(src=OTHER, dst=EXTERNAL) / ICMPv6DestUnreach(code=4) / came
    verdict, told = send(nat, error, OUTBOUND)
    packet.hlim -= 1
    assert verdict == Verdict.VERDICT_HAIRPIN
    assert told == bytes(IPv6(src=EXTERNAL, dst=GUEST, hlim=63) / ICMPv6DestUnreach(code=4) / packet)


@pytest.mark.parametrize(
    ("mtu", "verdict", "becomes"),
    [
        (1279, FORWARD, 1280),
        (0, FORWARD, 1280),
        (1280, FORWARD, 1280),
        (1399, FORWARD, 1399),
        (SIZE, BAD, SIZE),
    ],
)
def test_i9_too_big_names_what_an_ipv6_link_can_have(mtu: int, verdict: Verdict, becomes: int) -> None:
    nat = permissive()
    _, left = send(nat, sent(UDP(sport=5, dport=6)), OUTBOUND)
    error = IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6PacketTooBig(mtu=mtu) / left[:1232]
    got, came = send(nat, error, INBOUND)
    assert (got, IPv6(came)[ICMPv6PacketTooBig].mtu) == (verdict, becomes)


def test_i11_too_big_about_a_segment_that_is_not_in_flight_is_dropped() -> None:
    nat = permissive()
    _, left = send(nat, sent(TCP(sport=5, dport=6, flags="S", seq=7)), OUTBOUND)
    error = IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6PacketTooBig(mtu=1280) / left[:1232]
    assert send(nat, error, INBOUND)[0] == BAD


def harmed(error: bytes) -> bytes:
    return error[:-1] + bytes([error[-1] ^ 1])


def test_i1_an_error_that_is_harmed_or_is_not_for_its_sender_is_dropped() -> None:
    nat = permissive()
    _, left = send(nat, sent(UDP(sport=5, dport=6)), OUTBOUND)
    error = IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6DestUnreach() / left[:200]
    assert send(nat, harmed(bytes(error)), INBOUND)[0] == BAD
    assert send(nat, IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6DestUnreach() / left[:47], INBOUND)[0] == BAD
    assert (
        send(nat, IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6DestUnreach(type=5) / left[:99], INBOUND)[0] == BAD
    )
    foreign = IPv6(left)
    foreign.src = ROUTER
    error = IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6DestUnreach() / bytes(foreign)
    assert send(nat, error, INBOUND)[0] == BAD


def test_i2_an_error_about_a_packet_of_no_flow_is_dropped() -> None:
    nat = permissive()
    for remote, number in ((REMOTE, 4), (ROUTER, 5)):
        quoted = IPv6(src=EXTERNAL, dst=remote) / UDP(sport=number, dport=6)
        error = IPv6(src=ROUTER, dst=EXTERNAL) / ICMPv6DestUnreach() / quoted
        assert send(nat, error, INBOUND)[0] == Verdict.DROP_ICMP_NO_FLOW


def test_i7_no_error_is_made_about_an_error() -> None:
    nat = permissive()
    error = IPv6(src=GUEST, dst=REMOTE, hlim=1) / ICMPv6DestUnreach() / sent(UDP())
    assert send(nat, error, OUTBOUND)[0] == Verdict.DROP_TTL
    assert nat.emitted() == []


def test_a_segment_of_no_connection_is_answered_with_a_reset() -> None:
    nat = permissive()
    packet = IPv6(src=GUEST, dst=REMOTE) / TCP(sport=5, dport=6, flags="A", seq=100, ack=200)
    assert send(nat, packet, OUTBOUND)[0] == Verdict.DROP_NO_FLOW
    (made,) = nat.emitted()
    assert made.direction == INBOUND
    expected = IPv6(src=REMOTE, dst=GUEST, hlim=64) / TCP(
        sport=6, dport=5, flags="R", seq=200, ack=0, window=0
    )
    assert made.frame == bytes(expected)


def test_f9_the_sender_of_a_datagram_that_never_is_whole_is_told_after_a_minute() -> None:
    nat = permissive()
    first = (
        IPv6(src=GUEST, dst=REMOTE)
        / IPv6ExtHdrFragment(m=1, id=7)
        / UDP(sport=5, dport=6, len=99)
        / bytes(64)
    )
    assert send(nat, first, OUTBOUND)[0] == Verdict.VERDICT_HELD
    nat.expire(59.9)
    assert nat.emitted() == []
    nat.expire(60.1)
    (made,) = nat.emitted()
    told = IPv6(made.frame)
    assert (told[ICMPv6TimeExceeded].code, told.src, told.dst) == (1, "fd00:64::1", GUEST)
    assert bytes(told[ICMPv6TimeExceeded].payload) == bytes(first)
