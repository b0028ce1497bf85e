"""Identifications of IPv4 packets that leave whole (N13): RFC 7857 11, RFC 6864 5.3.1."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP

from arcbox_net.dataplane.verdict import Direction, Verdict
from arcbox_net.memory.batch import FrameBatch
from tests.support.frames import ACK, SYN, echo, tcp, udp
from tests.support.nat import E2, EXTERNAL, A, B, Nat
from tests.support.packets import NEEDS_CSUM, header

PEER = (E2, 80)
IP_BYTES = 20


@pytest.mark.parametrize(
    "make",
    [
        lambda guest: udp((guest, 4000), PEER, fragment=0, identification=9),
        lambda guest: tcp((guest, 4000), PEER, SYN, fragment=0, identification=9),
        lambda guest: echo(guest, E2, 7, fragment=0, identification=9),
    ],
    ids=["udp", "tcp", "icmp"],
)
def test_n13_packets_that_may_be_cut_are_numbered_as_if_one_host_had_sent_them(make):
    nat = Nat()
    numbers = [nat.sent(make(guest)).id for _ in range(50) for guest in (A, B)]
    assert len(set(numbers)) == len(numbers)


def test_n13_hairpinned_packets_are_numbered_by_the_external_address_too():
    nat = Nat(filtering="endpoint-independent")
    server = nat.external(udp((B, 5000), PEER))
    packet = udp((A, 4000), server, fragment=0, identification=9)
    assert nat.outbound(packet) == Verdict.VERDICT_HAIRPIN
    assert (IP(bytes(packet)).src, IP(bytes(packet)).id == 9) == (EXTERNAL, False)


@pytest.mark.parametrize("identification", [0, 9, 65535])
def test_n13_a_packet_that_no_router_may_cut_keeps_its_identification(identification):
    assert Nat().sent(udp((A, 4000), PEER, identification=identification)).id == identification


def test_what_comes_from_outside_keeps_its_identification():
    nat = Nat()
    external = nat.external(udp((A, 4000), PEER))
    assert nat.received(udp(PEER, external, fragment=0, identification=9)).id == 9


def test_n13_the_numbers_of_a_super_frames_segments_are_nobody_elses():
    nat = Nat()
    segment_bytes, segments = 1000, 5
    nat.sent(tcp((A, 4000), PEER, SYN, fragment=0))
    large = tcp((A, 4000), PEER, ACK, bytes(segment_bytes * segments - 1), seq=1001, fragment=0)
    offload = header(NEEDS_CSUM, 1, segment_bytes, csum_start=IP_BYTES, csum_offset=16)
    buffer = bytearray(offload + large)
    verdicts = nat.engine.translate(FrameBatch.over([buffer], vnet=True, l3=0), Direction.OUTBOUND, nat.now)
    assert verdicts[0] == Verdict.VERDICT_FORWARD
    first = IP(bytes(buffer[12:])).id
    following = nat.sent(tcp((A, 4000), PEER, ACK, seq=1001, fragment=0)).id
    assert (following - first) % 65536 == segments
