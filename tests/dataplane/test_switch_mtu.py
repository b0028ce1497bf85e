"""Frames that are larger than their port sends: their senders are told, within limits (L9)."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.support.switch import BROADCAST, Segment, arp, ether, ip6_of, ip_of, mac_of, tcp4

MTU = 1400
TSO4, USO = 1, 5


def segment_with_a_small_port() -> Segment:
    segment = Segment(frame_max=9014)
    segment.lab.set_port(1, frame_max=MTU + 14)
    return segment


def sized(size: int) -> Packet:
    """A TCP packet of *size* bytes."""
    return tcp4(0, 1, size=size - 40)


def super_frame(kind: int, segment_size: int) -> bytes:
    return struct.pack("=BBHHHHH", 1, kind, 54, segment_size, 34, 6 if kind == USO else 16, 0)


def test_a_frame_of_the_ports_size_passes_and_one_more_byte_does_not() -> None:
    segment = segment_with_a_small_port()
    assert segment.reaches(0, sized(MTU)) == {1}
    assert set(segment.send(0, sized(MTU + 1))) == {0}
    assert segment.lab.drops(0) == {"too_big": 1}


def test_l9_the_sender_is_told_by_whom_it_tried_to_reach() -> None:
    frame = sized(MTU + 1)
    (told,) = segment_with_a_small_port().send(0, frame)[0]
    answer = Ether(told)
    assert (answer.src, answer.dst) == (mac_of(1), mac_of(0))
    assert (answer[IP].src, answer[IP].dst) == (ip_of(1), ip_of(0))
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, MTU)
    assert told[14 + 20 + 8 :] == bytes(frame)[14 : 14 + 548]
    assert answer[ICMP].chksum == ICMP(bytes(ICMP(bytes(answer[ICMP]), chksum=None))).chksum


def test_l9_the_sender_of_ipv6_is_told_too() -> None:
    frame = ether(0, 1) / IPv6(src=ip6_of(0), dst=ip6_of(1)) / TCP() / Raw(bytes(MTU))
    (told,) = segment_with_a_small_port().send(0, frame)[0]
    answer = Ether(told)
    assert (answer[IPv6].src, answer[IPv6].dst) == (ip6_of(1), ip6_of(0))
    assert answer[ICMPv6PacketTooBig].mtu == MTU
    assert told[14 + 40 + 8 :] == bytes(frame)[14 : 14 + 1232]


def test_segments_that_fit_pass() -> None:
    segment = segment_with_a_small_port()
    frame = sized(4000)
    assert set(segment.send(0, frame, offload=super_frame(TSO4, MTU - 40))) == {1}
    assert set(segment.send(0, frame, offload=super_frame(TSO4, MTU - 39))) == {0}
    datagrams = ether(0, 1) / IP(src=ip_of(0), dst=ip_of(1)) / UDP(sport=5, dport=6) / Raw(bytes(4000))
    assert set(segment.send(0, datagrams, offload=super_frame(USO, MTU - 28))) == {1}
    assert set(segment.send(0, datagrams, offload=super_frame(USO, MTU - 27))) == {0}


def test_a_super_frame_without_its_headers_does_not_fit() -> None:
    frame = sized(4000)
    offload = struct.pack("=BBHHHHH", 1, TSO4, 54, 100, 250, 16, 0)
    assert set(segment_with_a_small_port().send(0, frame, offload=offload)) == {0}


def test_each_sender_is_told_within_a_limit() -> None:
    segment = segment_with_a_small_port()
    told = segment.send(0, *[sized(MTU + 1)] * 64)[0]
    assert len(told) == 25  # a quarter of 100 a second at once
    assert segment.lab.drops(0) == {"too_big": 64}


@pytest.mark.parametrize("ipv6", [False, True])
def test_one_that_is_told_often_leaves_the_others_their_share(ipv6: bool) -> None:
    def too_big(source: int) -> Packet:
        if ipv6:
            return ether(source, 1) / IPv6(src=ip6_of(source), dst=ip6_of(1)) / TCP() / Raw(bytes(MTU))
        return tcp4(source, 1, size=MTU + 1 - 40)

    segment = segment_with_a_small_port()
    assert len(segment.send(0, *[too_big(0)] * 64)[0]) == 25
    assert len(segment.send(2, too_big(2))[2]) == 1


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(0, ip_of(1)) / Raw(bytes(MTU)), id="arp"),
        pytest.param(ether(0, BROADCAST) / sized(MTU + 1).payload, id="broadcast"),
    ],
)
def test_nobody_is_told_of_broadcasts(frame: Packet) -> None:
    segment = segment_with_a_small_port()
    assert {0, 1} & set(segment.send(0, frame)) == set()
    assert segment.lab.drops(1) == {"too_big": 1}


def test_nobody_is_told_of_a_packet_that_lies_about_its_size() -> None:
    frame = ether(0, 1) / IP(src=ip_of(0), dst=ip_of(1), len=9000) / TCP() / Raw(bytes(MTU))
    segment = segment_with_a_small_port()
    assert segment.reason(0, frame) == "too_big"
