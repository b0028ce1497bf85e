"""Captures through the engine, both ways: what goes in on one side comes out on the other as scapy would write it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.utils import rdpcap, wrpcap

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.verdict import Direction
from tests.support.nat import E2, EXTERNAL, A

RESOLVER = "198.51.100.53"
OUTBOUND, INBOUND = Direction
TTL = 64
BURST_MAX = 64


def conversation(guest: str, ttl_out: int, ttl_in: int) -> Iterator[tuple[Direction, Packet]]:
    """A name is asked for, a page is fetched, a host is pinged: by *guest*, whose ports are mapped as they are."""
    out, back = (
        IP(src=guest, dst=RESOLVER, ttl=ttl_out, id=1, flags="DF"),
        IP(src=RESOLVER, dst=guest, ttl=ttl_in, id=2),
    )
    question = DNSQR(qname="example.com")
    yield OUTBOUND, out / UDP(sport=50001, dport=53) / DNS(id=7, qd=question)
    reply = DNS(id=7, qr=1, qd=question, an=DNSRR(rrname="example.com", rdata=E2))
    yield INBOUND, back / UDP(sport=53, dport=50001) / reply
    out, back = IP(src=guest, dst=E2, ttl=ttl_out, id=3, flags="DF"), IP(src=E2, dst=guest, ttl=ttl_in, id=4)
    sent, got = TCP(sport=50002, dport=80), TCP(sport=80, dport=50002)
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 0)), ("NOP", None), ("WScale", 7)]
    yield OUTBOUND, out / _at(sent, "S", 100, 0, options=options)
    yield INBOUND, back / _at(got, "SA", 900, 101, options=options)
    yield OUTBOUND, out / _at(sent, "A", 101, 901)
    yield OUTBOUND, out / _at(sent, "PA", 101, 901) / Raw(b"GET / HTTP/1.1\r\n\r\n")
    for i in range(100):
        yield INBOUND, back / _at(got, "A", 901 + 1400 * i, 119) / Raw(bytes([i]) * 1400)
    yield OUTBOUND, out / _at(sent, "A", 119, 901 + 140_000)
    yield INBOUND, back / _at(got, "FA", 901 + 140_000, 119)
    yield OUTBOUND, out / _at(sent, "FA", 119, 902 + 140_000)
    yield INBOUND, back / _at(got, "A", 902 + 140_000, 120)
    for seq in range(3):
        yield OUTBOUND, out / ICMP(type=8, id=50003, seq=seq) / Raw(bytes(range(48)))
        yield INBOUND, back / ICMP(type=0, id=50003, seq=seq) / Raw(bytes(range(48)))


def _at(segment: Packet, flags: str, seq: int, ack: int, **fields: object) -> Packet:
    again = segment.copy()
    again.flags, again.seq, again.ack, again.window = flags, seq, ack, 8000
    for name, value in fields.items():
        setattr(again, name, value)
    return again


def capture(path: Path, packets: list[Packet]) -> list[bytes]:
    """*packets* as frames, by way of a capture file."""
    wrpcap(
        str(path), [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in packets]
    )
    return [bytes(frame) for frame in rdpcap(str(path))]


@pytest.mark.parametrize("cache", [0, 256])
def test_a_capture_comes_out_on_the_other_side_as_scapy_would_write_it(tmp_path, cache):
    # What arrives has its full TTL; what leaves has one less. Each side's capture holds both ways.
    inside = list(conversation(A, TTL, TTL - 1))
    outside = list(conversation(EXTERNAL, TTL - 1, TTL))
    frames = {
        OUTBOUND: capture(tmp_path / "inside.pcap", [packet for _, packet in inside]),
        INBOUND: capture(tmp_path / "outside.pcap", [packet for _, packet in outside]),
    }
    engine = NatEngine(
        NatEngineConfig(EXTERNAL, port_range=(50000, 59999), fast_cache_size=cache, seed=bytes(32))
    )
    at = 0
    for direction, run in itertools.groupby(way for way, _ in inside):
        size = len(list(run))
        for first in range(at, at + size, BURST_MAX):
            last = min(first + BURST_MAX, at + size)
            burst = [bytearray(frame) for frame in frames[direction][first:last]]
            verdicts = engine.translate(burst, direction, 1000.0 + at)
            assert set(verdicts) == {0}, verdicts.hex()
            assert [bytes(frame) for frame in burst] == frames[Direction(1 - direction)][first:last]
        at += size
    assert at == len(inside)
