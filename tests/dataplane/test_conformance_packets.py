"""Headers: what is rewritten, what is refused, and what the checksums become."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.frames import (
    ACK,
    DONT_FRAGMENT,
    ICMP,
    IP,
    SYN,
    TCP,
    UDP,
    echo,
    ends,
    icmp,
    ipv4,
    read,
    tcp,
    udp,
)
from tests.support.nat import E2, EXTERNAL, GATEWAY, A, Nat

PEER = (E2, 80)
SOURCE_ROUTES = {"lsrr": b"\x83\x07\x04\xc0\x00\x02\x01\x00", "ssrr": b"\x89\x07\x04\xc0\x00\x02\x01\x00"}


def dropped(nat: Nat, packet: bytearray, reason: Verdict, direction: Direction = Direction.OUTBOUND) -> bool:
    """Whether *packet* is dropped for *reason*, untouched, and counted."""
    before = bytes(packet)
    name = reason.name.removeprefix("DROP_").lower()
    counted = nat.engine.stats()[name]
    verdict = nat.verdict(packet, direction)
    assert verdict == reason, verdict.name
    return bytes(packet) == before and nat.engine.stats()[name] == counted + 1


def test_n13_an_oversized_packet_that_may_not_be_fragmented_is_refused_with_the_mtu():
    nat = Nat(uplink_mtu=1400)
    assert dropped(nat, udp((A, 4000), PEER, bytes(1400 - 27)), Verdict.DROP_TOO_BIG)
    (answer,) = nat.answers()
    assert (answer.src, answer.dst) == (GATEWAY, A)
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1400)
    nat.sent(udp((A, 4000), PEER, bytes(1400 - 28)))


def test_n13_an_oversized_packet_that_may_be_fragmented_is_and_in_order():
    nat = Nat(uplink_mtu=1400)
    payload = bytes(range(256)) * 12
    for _ in range(2):
        packet = udp((A, 4000), PEER, payload, fragment=0, identification=9)
        assert nat.outbound(packet) == Verdict.VERDICT_FRAGMENTED
    pieces = nat.answers_outside()
    datagrams = [list(group) for _, group in itertools.groupby(pieces, lambda piece: piece.id)]
    assert len(datagrams) == 2, "RFC 6864: one identification a datagram"
    for datagram in datagrams:
        assert all(len(piece) <= 1400 for piece in datagram)
        assert [int(piece.flags.MF) for piece in datagram] == [1] * (len(datagram) - 1) + [0]
        bodies = [bytes(piece.payload) for piece in datagram]
        assert [piece.frag * 8 for piece in datagram] == [0, *itertools.accumulate(map(len, bodies[:-1]))]
        assert b"".join(bodies)[8:] == payload


@given(
    st.binary(min_size=0, max_size=65),
    st.integers(1024, 65535),
    st.integers(1, 65535),
    st.sampled_from([udp, tcp]),
)
def test_n30_checksums_are_right_whatever_they_were_over(payload, guest_port, peer_port, build):
    nat = Nat()
    source, destination = (A, guest_port), (E2, peer_port)
    packet = build(source, destination, payload=payload)
    external = ends(nat.sent(packet))[0]
    back = (
        build(destination, external, SYN | ACK, payload)
        if build is tcp
        else udp(destination, external, payload)
    )
    assert ends(nat.received(back)) == (destination, source)


def test_n30_a_udp_checksum_that_was_left_out_stays_out():
    nat = Nat()
    seen = nat.sent(udp((A, 4000), PEER, sum_=0))
    assert seen[UDP].chksum == 0
    assert nat.received(udp(PEER, ends(seen)[0], sum_=0))[UDP].chksum == 0


def test_n30_a_udp_checksum_that_becomes_0_is_sent_as_ffff():
    nat = Nat()
    filler = udp((A, 4000), PEER, b"\0\0")
    nat.sent(filler)
    rest = struct.unpack_from("!H", filler, 26)[0]
    seen = nat.sent(udp((A, 4000), PEER, struct.pack("!H", rest)))
    assert seen[UDP].chksum == 0xFFFF


def test_n31_every_hop_costs_one_ttl():
    nat = Nat()
    seen = nat.sent(udp((A, 4000), PEER, ttl=2))
    assert seen.ttl == 1
    assert nat.received(udp(PEER, ends(seen)[0], ttl=64)).ttl == 63


@pytest.mark.parametrize("ttl", [0, 1])
def test_n31_a_packet_at_its_last_hop_is_refused(ttl):
    nat = Nat()
    packet = udp((A, 4000), PEER, ttl=ttl)
    assert dropped(nat, packet, Verdict.DROP_TTL)
    (answer,) = nat.answers()
    assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == (GATEWAY, A, 11, 0)
    assert bytes(answer[ICMP].payload)[:28] == bytes(packet)[:28]


@pytest.mark.parametrize("protocol", [0, 2, 4, 41, 47, 50, 51, 132, 255])
def test_n32_other_protocols_are_never_read_as_ports(protocol):
    nat = Nat()
    ports = struct.pack("!HHHH", 4000, 80, 8, 0)
    assert dropped(nat, ipv4(A, E2, protocol, ports), Verdict.DROP_UNKNOWN_PROTOCOL)
    assert nat.flows() == []


@pytest.mark.parametrize(
    "broken",
    [
        {"version": 5},
        {"version": 6},
        {"ihl": 4},
        {"ihl": 0},
        {"ihl": 15},
        {"total": 19},
        {"total": 4000},
        {"total": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("direction", list(Direction))
def test_n33_lengths_that_lie_are_dropped(broken, direction):
    packet = udp((A, 4000), PEER) if direction == Direction.OUTBOUND else udp(PEER, (EXTERNAL, 50000))
    broken_packet = ipv4(*ends_of(packet), 17, bytes(packet[20:]), **broken)
    assert dropped(Nat(), broken_packet, Verdict.DROP_BAD_HEADER, direction)


def ends_of(packet: bytearray) -> tuple[str, str]:
    source, destination = ends(packet)
    return source.ip, destination.ip


@pytest.mark.parametrize("size", [0, 1, 19])
def test_n33_less_than_a_header_is_dropped(size):
    assert dropped(Nat(), udp((A, 4000), PEER)[:size], Verdict.DROP_BAD_HEADER)


def test_n33_padding_behind_the_packet_is_no_part_of_it():
    nat = Nat()
    padded = udp((A, 4000), PEER, b"x", padding=b"\xee" * 17)
    nat.outbound(padded)
    assert bytes(read(padded[:29])[UDP].payload) == b"x"
    (flow,) = nat.flows()
    assert flow.bytes == 29


def test_n33_a_wrong_header_checksum_is_dropped():
    assert dropped(Nat(), udp((A, 4000), PEER, header_checksum=0x1234), Verdict.DROP_BAD_IP_CHECKSUM)


@pytest.mark.parametrize("option", SOURCE_ROUTES.values(), ids=SOURCE_ROUTES)
@pytest.mark.parametrize(
    "before", [b"", b"\x01\x01\x01\x01", b"\x94\x04\x00\x00"], ids=["first", "nops", "alert"]
)
def test_n33_source_routes_are_dropped(option, before):
    assert dropped(Nat(), udp((A, 4000), PEER, options=before + option), Verdict.DROP_SOURCE_ROUTE)


@pytest.mark.parametrize(
    "options", [b"\x83\x00\x00\x00", b"\x07\x28\x04\x00", b"\x44\x01\x01\x01"], ids=["0", "long", "1"]
)
def test_n33_options_whose_length_lies_are_dropped(options):
    nat = Nat()
    assert nat.outbound(udp((A, 4000), PEER, options=options)) >= Verdict.DROP_FIRST


def test_n33_harmless_options_pass_unchanged():
    options = b"\x94\x04\x00\x00\x01\x01\x01\x00"
    packet = udp((A, 4000), PEER, options=options)
    assert Nat().outbound(packet) == Verdict.VERDICT_FORWARD
    assert bytes(packet[20:28]) == options
    assert read(packet)[IP].ihl == 7


MARTIAN_SOURCES = [
    "127.0.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    GATEWAY,
    "10.9.9.9",
    EXTERNAL,
]
MARTIAN_DESTINATIONS = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1"]


@pytest.mark.parametrize("source", MARTIAN_SOURCES)
def test_n34_a_guest_may_not_send_from(source):
    nat = Nat()
    assert dropped(nat, udp((source, 4000), PEER), Verdict.DROP_MARTIAN)
    assert nat.emitted() == []


@pytest.mark.parametrize("destination", MARTIAN_DESTINATIONS)
def test_n34_a_guest_may_not_send_to(destination):
    assert dropped(Nat(), udp((A, 4000), (destination, 80)), Verdict.DROP_MARTIAN)


def test_n34_a_packet_to_its_own_source_is_dropped():
    assert dropped(Nat(), udp((A, 4000), (A, 4000)), Verdict.DROP_MARTIAN)


@pytest.mark.parametrize("source", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", EXTERNAL, A])
def test_n34_the_outside_may_not_send_from(source):
    nat = Nat(filtering="endpoint-independent")
    external = nat.external(udp((A, 4000), PEER))
    assert dropped(nat, udp((source, 80), external), Verdict.DROP_MARTIAN, Direction.INBOUND)


@pytest.mark.parametrize("doff", [0, 4, 6, 15])
def test_a_tcp_header_that_does_not_fit_is_dropped(doff):
    assert dropped(Nat(), tcp((A, 4000), PEER, doff=doff), Verdict.DROP_BAD_L4)


@pytest.mark.parametrize("size", [0, 7, 9, 65535])
def test_a_udp_length_that_lies_is_dropped(size):
    packet = udp((A, 4000), PEER, b"")
    struct.pack_into("!H", packet, 24, size)
    assert dropped(Nat(), packet, Verdict.DROP_BAD_L4)


@pytest.mark.parametrize(
    "whole, minimum",
    [(tcp((A, 1), PEER), 20), (udp((A, 1), PEER, b""), 8), (echo(A, E2, 1, b""), 8)],
    ids=["tcp", "udp", "icmp"],
)
def test_a_packet_cut_inside_its_l4_header_is_dropped(whole, minimum):
    for size in range(minimum):
        cut = ipv4(A, E2, whole[9], bytes(whole[20 : 20 + size]), fragment=DONT_FRAGMENT)
        assert Nat().outbound(cut) in (Verdict.DROP_BAD_L4, Verdict.DROP_BAD_ICMP), size


@given(st.binary(max_size=120), st.sampled_from(Direction))
def test_arbitrary_bytes_are_dropped_without_a_trace(body, direction):
    nat = Nat()
    assert nat.verdict(bytearray(body), direction) >= Verdict.DROP_FIRST
    assert nat.flows() == []


def test_port_0_is_nobodys():
    nat = Nat()
    assert nat.outbound(udp((A, 4000), (E2, 0))) >= Verdict.DROP_FIRST
    assert nat.outbound(tcp((A, 0), PEER)) >= Verdict.DROP_FIRST


def test_mutations_of_one_byte_never_leave_a_broken_packet():
    """Whatever byte of a good packet is changed: what is forwarded has a right header checksum and real lengths."""
    good = tcp((A, 4000), PEER, SYN, b"payload", options=b"\x02\x04\x05\xb4")
    for at in range(len(good)):
        for value in (0, 1, 0x7F, 0x80, 0xFF):
            packet = bytearray(good)
            packet[at] = value
            if Nat().outbound(packet) == Verdict.VERDICT_FORWARD:
                seen = IP(bytes(packet))
                again = seen.copy()
                del again.chksum
                assert bytes(again)[:20] == bytes(packet)[:20], at


def test_icmp_of_kinds_that_no_nat_translates_is_dropped():
    for kind in (1, 2, 6, 7, 9, 10, 15, 30, 255):
        assert Nat().outbound(icmp(A, E2, kind, 0)) >= Verdict.DROP_FIRST, kind


def test_tcp_reads_as_it_was_sent():
    seen = Nat().sent(tcp((A, 4000), PEER, SYN, seq=7, window=1234, options=b"\x02\x04\x05\xb4"))
    assert (seen[TCP].seq, seen[TCP].window, seen[TCP].options) == (7, 1234, [("MSS", 1460)])
