"""Packets of guests and of others, and pauses, through a NAT engine and past the oracle: what becomes of each.

An input is two bytes of configuration, then steps: a byte that says what (`STEPS`), and what that step reads. Packets
are what the oracle knows: whole ones of UDP, TCP and echo, of a few endpoints.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address

from arcbox_net.dataplane.nat_config import FILTERING
from arcbox_net.dataplane.verdict import Direction
from tests.fuzz.reader import Input, steps
from tests.oracle.nat import Packet
from tests.support.compared_nat import PORT_RANGE, ComparedNat
from tests.support.frames import ACK, FIN, RST, SYN, Endpoint
from tests.support.nat import E2, E3, EXTERNAL, A, B

STEPS_MAX = 64
BURST_MAX = 4
PROTOCOLS = ("udp", "tcp", "tcp", "icmp")
NAMES = {1: "icmp", 6: "tcp", 17: "udp"}
SEGMENTS = (SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, ACK, SYN)
GUESTS = [Endpoint(ip, number) for ip in (A, B) for number in (80, 4000, 4001, 4002)]
PEERS = [Endpoint(ip, number) for ip in (E2, E3) for number in (53, 80)]
EXTERNALS = [Endpoint(EXTERNAL, number) for number in (8080, *range(PORT_RANGE[0], PORT_RANGE[1] + 1))]
PAUSES_S = (1, 2, 29, 31, 59, 61, 119, 121, 239, 241, 299, 301, 7439, 7441, 0, 3)


class Both(ComparedNat):
    def seen(self, frame: bytearray) -> Packet:
        """Without scapy, for speed: checksums are the target `nat`'s."""
        source, destination = (str(IPv4Address(bytes(frame[at : at + 4]))) for at in (12, 16))
        protocol, l4 = NAMES[frame[9]], frame[20:]
        if protocol == "icmp":
            (number,) = struct.unpack_from("!H", l4, 4)
            return Packet(protocol, Endpoint(source, number), Endpoint(destination, number))
        ports = struct.unpack_from("!HH", l4)
        ends = Endpoint(source, ports[0]), Endpoint(destination, ports[1])
        if protocol == "udp":
            return Packet(protocol, *ends)
        (seq,) = struct.unpack_from("!I", l4, 4)
        return Packet(protocol, *ends, l4[13], seq)


def burst(read: Input, sources: list[Endpoint], destinations: list[Endpoint]) -> list[Packet]:
    found = []
    for _ in range(1 + read.number() % BURST_MAX):
        kind, ends = read.number(), read.number()
        source, destination = sources[ends % len(sources)], destinations[(ends >> 4) % len(destinations)]
        found.append(Packet(PROTOCOLS[kind & 3], source, destination, SEGMENTS[kind >> 2 & 7]))
    return found


def outbound(both: Both, read: Input) -> None:
    both.translate(burst(read, GUESTS, PEERS), Direction.OUTBOUND)


def inbound(both: Both, read: Input) -> None:
    both.translate(burst(read, PEERS, EXTERNALS), Direction.INBOUND)


def between(both: Both, read: Input) -> None:
    both.translate(burst(read, GUESTS, EXTERNALS), Direction.OUTBOUND)


def to_a_mapping(both: Both, read: Input) -> None:
    """From a guest's endpoint to an external one that leads to a guest."""
    kind, number = read.number(), read.number()
    protocol = PROTOCOLS[kind & 1]
    alike = [one.external for one in both.oracle.mappings if one.protocol == protocol]
    if alike:
        destination = alike[number % len(alike)]
        one = Packet(protocol, GUESTS[(kind >> 1) % len(GUESTS)], destination, SEGMENTS[number >> 5])
        both.translate([one], Direction.OUTBOUND)


def along(both: Both, read: Input) -> None:
    kind = read.number()
    both.along(kind >> 4, SEGMENTS[kind >> 1 & 7], Direction(kind & 1))


def pause(both: Both, read: Input) -> None:
    both.pause(PAUSES_S[read.number() % len(PAUSES_S)])


STEPS: tuple[Callable[[Both, Input], None], ...] = (
    outbound,
    inbound,
    between,
    to_a_mapping,
    to_a_mapping,
    along,
    along,
    pause,
)


def compare(body: bytes) -> None:
    """The target: NAT, and what the RFCs say of it."""
    read = Input(body)
    options, limits = read.number(), read.number()
    both = Both()
    both.begin(
        filtering=FILTERING[options % 3],
        inbound_refresh=bool(options & 4),
        port_parity=bool(options & 8),
        preserve_ports=bool(options & 16),
        fast_cache_size=(0, 2, 256)[(options >> 5) % 3],
        conntrack_size=8 if limits & 1 else 64,
        flows_per_guest=6 if limits & 2 else 1000,
        ports_per_guest=5 if limits & 4 else 1000,
    )
    for step in steps(read, STEPS_MAX):
        STEPS[step % len(STEPS)](both, read)
        both.agree()
    both.engine.close()
