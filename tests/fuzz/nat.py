"""Arbitrary frames and pauses through a NAT engine: what comes out is self-consistent, what is dropped is untouched.

An input is a byte of configuration, then steps: a byte that says what (`STEPS`), and what that step reads.
"""

from __future__ import annotations

import functools
import struct

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import FILTERING, NatEngineConfig
from arcbox_net.dataplane.verdict import Direction, Verdict
from arcbox_net.memory.batch import FrameBatch
from arcbox_net.wire.checksums import checksum, pseudo_header_checksum
from tests.fuzz.reader import Input, steps
from tests.support.frames import ICMP_ECHO, echo, icmp, tcp, udp
from tests.support.nat import E2, E3, EXTERNAL, A, B

FORWARDED = (Verdict.VERDICT_FORWARD, Verdict.VERDICT_HAIRPIN)
STEPS_MAX = 64
CLOCK_MAX_S = 1 << 30  # a session that begins by then ends within what engines count
SESSION_GAP_S = 1000  # no port is on hold for so long, and no fragment waits
VNET_BYTES = 12
ETHERNET = {
    4: bytes.fromhex("0200000000010200000000020800"),
    6: bytes.fromhex("02000000000102000000000286dd"),
}
ETHERNET_BYTES = 14
GUESTS, REMOTES = (A, B, "192.168.64.77", "10.0.0.1"), (E2, E3, EXTERNAL, A)
PORTS = (80, 4000, 50000, 50001, 53, 0, 8080, 65535)
ICMP_PROTOCOL, TCP_PROTOCOL, UDP_PROTOCOL = 1, 6, 17
IPV6_HEADER_BYTES = 40
ECHO_REPLIES = {ICMP_ECHO: 0, 128: 129}  # 128 and 129 are ICMPv6's


@functools.cache
def engine(options: int) -> NatEngine:
    """An engine with some options. To make one takes longer than an input does: sessions follow each other on it."""
    made = NatEngine(
        NatEngineConfig(
            EXTERNAL,
            external_ip6="2001:db8::1",
            inside6="fd00:64::/64",
            port_range=(50000, 50015),
            ports_per_guest=12,
            conntrack_size=16,
            fast_cache_size=8,
            filtering=FILTERING[options % 3],
            inbound_refresh=bool(options & 4),
            port_parity=bool(options & 8),
            unsolicited_syn="refuse" if options & 16 else "drop",
            uplink_mtu=1280 if options & 32 else 1500,
            seed=bytes(32),
        )
    )
    made.add_forward("tcp", 8080, B, 80)
    return made


class Session:
    """An engine without flows, and the packet that it forwarded last: later steps answer or quote it."""

    ended = 1000.0  # all engines' time

    def __init__(self, options: int) -> None:
        if Session.ended > CLOCK_MAX_S:
            engine.cache_clear()
            Session.ended = 1000.0
        self.engine = engine(options % 64)
        self.now = Session.ended + SESSION_GAP_S
        self.last = bytes(udp((A, 4000), (E2, 80)))
        self.wait(0)

    def give(self, packet: bytes, direction: Direction, vnet: bytes = b"") -> None:
        """Translate *packet*, an IP packet, behind an Ethernet header and the virtio-net header *vnet*."""
        ahead = len(vnet) + ETHERNET_BYTES
        frame = bytearray(vnet + ETHERNET[6 if is_ipv6(packet) else 4] + packet)
        batch = FrameBatch.over([frame], vnet=bool(vnet), l3=ETHERNET_BYTES)
        verdict = Verdict(self.engine.translate(batch, direction, self.now)[0])
        batch.clear()
        if verdict in FORWARDED:
            after = bytes(frame[ahead:])
            check(after, l4=not vnet and whole(packet))
            self.last = after
        elif verdict >= Verdict.DROP_FIRST:
            assert frame[ahead:] == packet, f"{verdict.name}, and rewritten"
        self.look_at_emitted()

    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.engine.expire(self.now, 64)
        self.look_at_emitted()

    def look_at_emitted(self) -> None:
        for one in self.engine.emitted():
            packet = bytes(one.frame[ETHERNET_BYTES:])
            check(packet, l4=not struct.unpack_from("!H", packet, 6)[0] & 0x3FFF)

    def end(self) -> None:
        assert len(list(self.engine.flows())) == self.engine.stats()["flows"] <= 16
        list(self.engine.mappings())
        self.engine.flush()
        assert self.engine.stats()["flows"] == 0
        Session.ended = self.now


def translate(body: bytes) -> None:
    """The target: parse and NAT."""
    read = Input(body)
    session = Session(read.number())
    for step in steps(read, STEPS_MAX):
        STEPS[step % len(STEPS)](session, read)
    session.end()


def any_packet(session: Session, read: Input) -> None:
    """Bytes as they are."""
    direction = Direction(read.number() & 1)
    session.give(read.take(read.number()), direction)


def repaired_packet(session: Session, read: Input) -> None:
    """Bytes whose lengths and checksums are put right, so that more than the first check sees them."""
    options = read.number()
    packet = bytearray(read.take(20 + read.number()).ljust(28, b"\0"))
    if options & 2:
        packet[12:16] = bytes(map(int, GUESTS[options >> 2 & 3].split(".")))
        packet[16:20] = bytes(map(int, REMOTES[options >> 4 & 3].split(".")))
    repair(packet)
    session.give(bytes(packet), Direction(options & 1))


def offloaded_packet(session: Session, read: Input) -> None:
    """A built packet with any virtio-net header."""
    vnet = read.take(VNET_BYTES).ljust(VNET_BYTES, b"\0")
    session.give(built(read), Direction.OUTBOUND, vnet)


def built_packet(session: Session, read: Input) -> None:
    session.give(built(read), Direction.OUTBOUND)


def answer(session: Session, read: Input) -> None:
    """The last forwarded packet turned round, with some of its bytes changed and its checksums right."""
    options = read.number()
    packet = bytearray(session.last)
    if is_ipv6(packet):
        packet[8:40] = packet[24:40] + packet[8:24]
        header, protocol = IPV6_HEADER_BYTES, packet[6]
    else:
        packet[12:20] = packet[16:20] + packet[12:16]
        header, protocol = (packet[0] & 15) * 4, packet[9]
    if protocol in (TCP_PROTOCOL, UDP_PROTOCOL):
        packet[header : header + 4] = packet[header + 2 : header + 4] + packet[header : header + 2]
    elif packet[header] in ECHO_REPLIES:
        packet[header] = ECHO_REPLIES[packet[header]]
    for _ in range(options >> 1 & 3):
        packet[read.number() % len(packet)] = read.number()
    if options & 8:
        repair(packet)
    session.give(bytes(packet), Direction(options & 1 ^ 1))


def error(session: Session, read: Input) -> None:
    """An ICMP error that quotes the last forwarded packet, or its answer."""
    options, kind, code, mtu = read.number(), read.number(), read.number(), read.number(2)
    quote = session.last[: read.number()]
    outbound = bool(options & 1)
    ends = (A, E2) if outbound else (E3, EXTERNAL)
    session.give(bytes(icmp(*ends, kind, code, mtu, quote)), Direction(not outbound))


def fragment(session: Session, read: Input) -> None:
    """A fragment with any offset and identification, and a right header checksum."""
    options, offset = read.number(), read.number(2)
    payload = read.take(read.number())
    packet = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), options >> 6, offset, 64, 17, 0))
    ends = ((A, B)[options >> 1 & 1], E2) if options & 1 == Direction.OUTBOUND else (E2, EXTERNAL)
    packet += b"".join(bytes(map(int, end.split("."))) for end in ends) + payload
    packet[10:12] = checksum(bytes(packet[:20])).to_bytes(2, "big")
    session.give(bytes(packet), Direction(options & 1))


def pause(session: Session, read: Input) -> None:
    session.wait(read.number(2))


STEPS = (any_packet, repaired_packet, offloaded_packet, built_packet, answer, error, fragment, pause)


def built(read: Input) -> bytes:
    """A packet of a guest: protocol, ends, flags and sequence number as the input says."""
    options, ports, size = read.number(), read.number(), read.number()
    guest, remote = (A, B)[options & 1], REMOTES[options >> 1 & 3]
    source, destination = (guest, PORTS[ports & 7]), (remote, PORTS[ports >> 3 & 7])
    kind = options >> 3 & 3
    if kind == 0:
        return bytes(udp(source, destination, bytes(size * 8), fragment=options >> 5 & 2))
    if kind == 1:
        return bytes(echo(guest, remote, ports, bytes(size)))
    flags, seq, ack = read.number(), read.number(4), read.number(4)
    return bytes(tcp(source, destination, flags, bytes(size), seq=seq, ack=ack))


def is_ipv6(packet: bytes | bytearray) -> bool:
    return bool(packet) and packet[0] >> 4 == 6


def repair(packet: bytearray) -> None:
    """Put the lengths and checksums of *packet* right, as far as it is IPv4 and its header size lets one find them."""
    header = (packet[0] & 15) * 4
    if is_ipv6(packet) or header < 20 or header + 8 > len(packet):
        return
    struct.pack_into("!H", packet, 2, len(packet))
    packet[10:12] = b"\0\0"
    packet[10:12] = checksum(bytes(packet[:header])).to_bytes(2, "big")
    at = {ICMP_PROTOCOL: 2, TCP_PROTOCOL: 16, UDP_PROTOCOL: 6}.get(packet[9])
    l4 = packet[header:]
    if at is None or len(l4) < at + 2:
        return
    if packet[9] == UDP_PROTOCOL:
        l4[4:6] = len(l4).to_bytes(2, "big")
    l4[at : at + 2] = b"\0\0"
    l4[at : at + 2] = l4_sum(packet, l4).to_bytes(2, "big")
    packet[header:] = l4


def l4_sum(packet: bytes | bytearray, l4: bytes | bytearray) -> int:
    if packet[9] == ICMP_PROTOCOL:
        return checksum(bytes(l4))
    ends = bytes(packet[12:16]), bytes(packet[16:20])
    return checksum(bytes(l4), pseudo_header_checksum(*ends, packet[9], len(l4)))


def whole(packet: bytes) -> bool:
    """Whether *packet* is of IPv4, is no fragment and its L4 checksum holds."""
    if is_ipv6(packet):
        return False
    header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
    l4 = packet[header:total]
    if packet[9] == UDP_PROTOCOL:
        size, written = struct.unpack_from("!HH", l4, 4)
        if size != len(l4) or written == 0:
            return False
    return l4_sum(packet, l4) == 0


def check(packet: bytes, *, l4: bool) -> None:
    """A packet that leaves the engine: real lengths, and of IPv4 a right header checksum, and one of L4 if *l4*."""
    if is_ipv6(packet):
        assert IPV6_HEADER_BYTES + struct.unpack_from("!H", packet, 4)[0] <= len(packet), "lengths"
        return
    header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
    assert packet[0] >> 4 == 4 and 20 <= header <= total <= len(packet), "lengths"
    assert checksum(packet[:header]) == 0, "header checksum"
    assert not l4 or l4_sum(packet, packet[header:total]) == 0, "L4 checksum"
