"""ICMP errors through the NAT: what is translated, what is refused, and how many the engine makes itself."""

from __future__ import annotations

import collections
import itertools
import struct

import pytest

from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.frames import ACK, ICMP, SYN, Endpoint, echo, ends, icmp, ipv4, read, tcp, udp
from tests.support.nat import E2, E3, EXTERNAL, FORWARDED, A, Nat

PEER = (E2, 80)
ROUTER = "192.0.2.99"
QUOTE_BYTES = 28
HEADERS_BYTES = 28  # IP and ICMP, ahead of a quote


def opened(nat: Nat) -> tuple[bytearray, bytearray]:
    """A datagram of A's as A sent it, and as it left."""
    inside = udp((A, 4000), PEER, bytes(1400))
    left = bytearray(inside)
    assert nat.outbound(left) == Verdict.VERDICT_FORWARD
    return inside, left


@pytest.mark.parametrize(
    "kind, code, rest", [(3, 1, 0), (3, 3, 0), (3, 4, 1300), (11, 0, 0), (12, 0, 0x14000000)]
)
@pytest.mark.parametrize("quoted", [28, 576, 1428], ids=["i2-i6-8-bytes", "i6-576", "i6-1428"])
def test_i2_i6_i8_an_error_from_outside_reaches_the_guest_in_its_own_words(kind, code, rest, quoted):
    nat = Nat()
    inside, left = opened(nat)
    error = nat.received(icmp(ROUTER, EXTERNAL, kind, code, rest, bytes(left[:quoted])))
    assert (error.src, error.dst) == (ROUTER, A)
    assert (error[ICMP].type, error[ICMP].code) == (kind, code)
    quote = bytes(error)[HEADERS_BYTES:]
    assert len(quote) == quoted
    assert quote[12:26] == bytes(inside)[12:26], "addresses, ports and length as A sent them"
    assert quote[26:28] == bytes(inside)[26:28], "and the checksum that A wrote"
    assert checksum_holds(quote[:20])


def checksum_holds(header: bytes) -> bool:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    return (total & 0xFFFF) + (total >> 16) in (0xFFFF, 0x1FFFE)


def test_i2_an_error_about_nobodys_packet_is_dropped():
    nat = Nat()
    opened(nat)
    quote = bytes(udp((EXTERNAL, 1234), PEER)[:QUOTE_BYTES])
    assert nat.inbound(icmp(ROUTER, EXTERNAL, 3, 3, 0, quote)) == Verdict.DROP_ICMP_NO_FLOW


def test_i2_an_error_about_a_tcp_segment_is_translated():
    nat = Nat()
    external = nat.connect()
    quote = bytes(tcp(external, PEER, ACK, seq=2, ack=101))
    error = nat.received(icmp(ROUTER, EXTERNAL, 3, 1, 0, quote))
    assert bytes(error)[HEADERS_BYTES:][12:40] == bytes(tcp((A, 4000), PEER, ACK, seq=2, ack=101))[12:40]


def test_i2_an_error_about_an_echo_is_translated():
    nat = Nat()
    inside = echo(A, E2, 77)
    left = bytearray(inside)
    nat.sent(left)
    error = nat.received(icmp(ROUTER, EXTERNAL, 11, 0, 0, bytes(left)))
    quote = bytes(error)[HEADERS_BYTES:]
    assert quote[12:] == bytes(inside)[12:]
    assert checksum_holds(quote[:20])


def test_i3_an_error_from_a_guest_speaks_of_the_external_endpoint():
    nat = Nat()
    external = nat.external(udp((A, 4000), PEER))
    outside = udp(PEER, external, b"question")
    inside = bytearray(outside)
    nat.received(inside)
    error = nat.sent(icmp(A, E2, 3, 3, 0, bytes(inside)))
    assert (error.src, error.dst) == (EXTERNAL, E2)
    quote = bytes(error)[HEADERS_BYTES:]
    assert quote[12:] == bytes(outside)[12:]
    assert checksum_holds(quote[:20])


def test_i3_an_error_from_a_guest_about_nobodys_packet_is_dropped():
    nat = Nat()
    opened(nat)
    quote = bytes(udp((E3, 80), (A, 4000))[:QUOTE_BYTES])
    assert nat.outbound(icmp(A, E3, 3, 3, 0, quote)) == Verdict.DROP_ICMP_NO_FLOW


@pytest.mark.parametrize("direction", list(Direction))
def test_i4_errors_refresh_and_end_nothing(direction):
    nat = Nat(inbound_refresh=True)
    _, left = opened(nat)
    nat.wait(299)
    if direction == Direction.INBOUND:
        nat.received(icmp(ROUTER, EXTERNAL, 3, 3, 0, bytes(left[:QUOTE_BYTES])))
    else:
        quote = bytes(udp(PEER, (A, 4000))[:QUOTE_BYTES])
        nat.sent(icmp(A, E2, 3, 3, 0, quote))
    assert len(nat.flows()) == 1
    nat.wait(2)
    assert nat.flows() == []


def broken_quote(left: bytearray, at: int, value: int) -> bytes:
    quote = bytearray(left[:QUOTE_BYTES])
    quote[at] ^= value
    return bytes(quote)


def test_i1_a_wrong_icmp_checksum_is_dropped():
    nat = Nat()
    _, left = opened(nat)
    error = icmp(ROUTER, EXTERNAL, 3, 3, 0, bytes(left[:QUOTE_BYTES]), sum_=0xBEEF)
    assert nat.inbound(error) == Verdict.DROP_BAD_ICMP


def test_i1_a_wrong_checksum_of_the_quoted_header_is_dropped():
    nat = Nat()
    _, left = opened(nat)
    error = icmp(ROUTER, EXTERNAL, 3, 3, 0, broken_quote(left, 10, 0x55))
    assert nat.inbound(error) == Verdict.DROP_BAD_ICMP


def test_i1_the_quoted_l4_checksum_is_not_looked_at():
    nat = Nat()
    _, left = opened(nat)
    assert nat.inbound(icmp(ROUTER, EXTERNAL, 3, 3, 0, broken_quote(left, 26, 0x55))) in FORWARDED


def test_i1_options_of_the_quoted_header_are_skipped():
    nat = Nat()
    external = nat.external(udp((A, 4000), PEER))
    quote = udp(external, PEER, options=b"\x94\x04\x00\x00")
    error = nat.received(icmp(ROUTER, EXTERNAL, 3, 3, 0, bytes(quote)))
    inner = bytes(error)[HEADERS_BYTES:]
    assert inner[20:24] == b"\x94\x04\x00\x00"
    assert struct.unpack_from("!HH", inner, 24) == (4000, 80)


def test_i1_extensions_behind_the_quote_are_kept():
    """RFC 4884: a quote padded to 128 bytes (32 words), then extension objects."""
    nat = Nat()
    _, left = opened(nat)
    extension = b"\x20\x00\xde\xad\x00\x08\x01\x01\x00\x10\x11\x40"
    error = nat.received(icmp(ROUTER, EXTERNAL, 11, 0, 32 << 16, bytes(left[:128]) + extension))
    assert bytes(error)[-len(extension) :] == extension


@pytest.mark.parametrize("l4_bytes", [0, 4, 7])
def test_i6_a_quote_without_ports_is_dropped(l4_bytes):
    nat = Nat()
    _, left = opened(nat)
    assert nat.inbound(icmp(ROUTER, EXTERNAL, 3, 3, 0, bytes(left[: 20 + l4_bytes]))) == Verdict.DROP_BAD_ICMP


def test_i6_a_quoted_later_fragment_has_no_ports_to_read():
    nat = Nat()
    _, left = opened(nat)
    quote = ipv4(EXTERNAL, E2, 17, bytes(left[20:28]), fragment=100)
    verdict = nat.inbound(icmp(ROUTER, EXTERNAL, 3, 3, 0, bytes(quote)))
    assert verdict in (Verdict.DROP_BAD_ICMP, Verdict.DROP_ICMP_NO_FLOW)


def test_i7_no_error_is_made_about_an_error():
    nat = Nat()
    opened(nat)
    quote = bytes(udp(PEER, (A, 4000))[:QUOTE_BYTES])
    assert nat.outbound(icmp(A, E2, 3, 3, 0, quote, ttl=1)) == Verdict.DROP_TTL
    assert nat.answers() == []


@pytest.mark.parametrize("fragment", [1, 0x2001])
def test_i7_no_error_is_made_about_a_later_fragment(fragment):
    nat = Nat()
    nat.outbound(ipv4(A, E2, 17, bytes(16), ttl=1, fragment=fragment))
    assert nat.answers() == []


def test_i7_errors_are_limited_per_guest_and_in_all():
    nat = Nat()
    guests = [f"192.168.64.{host + 2}" for host in range(20)]
    for _ in range(10):
        for host, i in itertools.product(guests, range(20)):
            nat.outbound(udp((host, 4000 + i), PEER, ttl=1))
        nat.now += 0.1
    made = collections.Counter(one.dst for one in nat.answers())
    assert max(made.values()) <= 100
    assert 500 <= made.total() <= 1000


def test_i7_a_guest_is_answered_again_later():
    nat = Nat()
    for _ in range(2):
        for i in range(200):
            nat.outbound(udp((A, 4000 + i), PEER, ttl=1))
        made = len(nat.answers())
        assert 1 <= made <= 100
        nat.wait(2)


@pytest.mark.parametrize("mtu", [0, 67, 1428, 1500, 9000])
def test_i11_a_fragmentation_needed_that_says_nothing_believable_is_dropped(mtu):
    nat = Nat()
    _, left = opened(nat)
    assert nat.inbound(icmp(ROUTER, EXTERNAL, 3, 4, mtu, bytes(left[:QUOTE_BYTES]))) >= Verdict.DROP_FIRST


def test_i11_a_fragmentation_needed_about_a_sequence_number_not_in_flight_is_dropped():
    nat = Nat()
    external = nat.connect()
    quote = bytes(tcp(external, PEER, ACK, seq=2 + 2**30)[:QUOTE_BYTES])
    assert nat.inbound(icmp(ROUTER, EXTERNAL, 3, 4, 1300, quote)) >= Verdict.DROP_FIRST


def test_echo_requests_from_outside_reach_nobody():
    nat = Nat(filtering="endpoint-independent")
    external: Endpoint = nat.external(echo(A, E2, 77))
    assert nat.inbound(echo(E3, external.ip, external.number)) >= Verdict.DROP_FIRST


def test_an_error_about_a_syn_leaves_the_connection_to_try_on():
    nat = Nat()
    syn = tcp((A, 4000), PEER, SYN, seq=1)
    left = bytearray(syn)
    nat.sent(left)
    nat.received(icmp(ROUTER, EXTERNAL, 3, 1, 0, bytes(left[:QUOTE_BYTES])))
    external = ends(read(left))[0]
    nat.received(tcp(PEER, external, SYN | ACK, seq=100, ack=2))
