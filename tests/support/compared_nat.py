"""A NAT engine beside the oracle: what is done to both, and whether they agree."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, ClassVar

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.oracle.hairpin import HairpinOracle
from tests.oracle.nat import GUEST, PEER, Flow, Packet
from tests.support.frames import ACK, ICMP_ECHO_REPLY, SYN, Endpoint, echo, ends, read, tcp, udp
from tests.support.nat import EXTERNAL, FORWARDED, B
from tests.support.packets import ICMP, TCP, UDP

PORT_RANGE = (50000, 50011)
FORWARD = ("tcp", Endpoint(EXTERNAL, 8080), Endpoint(B, 80))
ISN = {GUEST: 1, PEER: 100}
GENERATION = 1_000_000  # how far apart the sequence numbers of a connection and of its successor are


class ComparedNat:
    """*options* are `NatEngineConfig`'s."""

    told: ClassVar[dict[str, Any]] = {}  # of the engine's configuration
    address_of: ClassVar[dict[str, str]] = {}  # addresses by the ones that the model has for them

    def begin(self, **options: Any) -> None:
        config = NatEngineConfig(
            EXTERNAL, port_range=PORT_RANGE, l3_offset=0, seed=bytes(32), **options, **self.told
        )
        self.engine, self.oracle, self.now = NatEngine(config), HairpinOracle(config), 1000
        self.generations: collections.Counter[Flow] = collections.Counter()
        protocol, external, inside = FORWARD
        self.engine.add_forward(
            protocol, external.number, self.address_of.get(inside.ip, inside.ip), inside.number
        )
        self.oracle.forward(protocol, external, inside)

    def along(self, number: int, flags: int, direction: Direction) -> None:
        """A packet of a flow that is known. One between guests has only those that are outbound."""
        if not self.oracle.flows:
            return
        chosen = self.oracle.flows[number % len(self.oracle.flows)]
        source, destination = chosen.mapping.inside, chosen.remote
        if direction == Direction.INBOUND and chosen.far is not None:
            source, destination = chosen.far.mapping.inside, chosen.mapping.external
        elif direction == Direction.INBOUND and chosen.remote.ip != EXTERNAL:
            source, destination = chosen.remote, chosen.mapping.external
        outbound = chosen.remote.ip == EXTERNAL or direction == Direction.OUTBOUND
        way = Direction.OUTBOUND if outbound else Direction.INBOUND
        self.translate([Packet(chosen.mapping.protocol, source, destination, flags)], way)

    def pause(self, seconds: int) -> None:
        self.now += seconds
        self.engine.expire(float(self.now), 1 << 20)
        self.oracle.expire(self.now)

    def translate(self, burst: list[Packet], direction: Direction) -> None:
        burst = [self.numbered(packet, direction) for packet in burst]
        frames = [self.built(packet, direction) for packet in burst]
        before = [bytes(frame) for frame in frames]
        verdicts = self.engine.translate(frames, direction, float(self.now))
        for packet, frame, given, code in zip(burst, frames, before, verdicts, strict=True):
            verdict = Verdict(code)
            left = self.seen(frame) if verdict in FORWARDED else None
            assert left is not None or bytes(frame) == given, "a dropped frame is as it was"
            if direction == Direction.INBOUND:
                self.oracle.inbound(packet, self.now, verdict, left)
            elif packet.destination.ip == EXTERNAL:
                self.oracle.between(packet, self.now, verdict, left, self.mapping_of(packet))
            else:
                self.oracle.outbound(packet, self.now, verdict, left)

    def agree(self) -> None:
        """The same flows are known, and the same mappings alive."""
        known = sorted(
            (one.mapping.protocol, one.mapping.inside, one.mapping.external) for one in self.oracle.flows
        )
        found = []
        for flow in self.engine.flows():
            if flow.opened_by == Direction.OUTBOUND:
                found.append((flow.protocol, self.end(flow.source), self.end(flow.reply_destination)))
            else:
                found.append((flow.protocol, self.end(flow.reply_source), self.end(flow.destination)))
        assert sorted(found) == known
        mapped = {
            (one.protocol, self.end(one.inside), self.end(one.external)) for one in self.engine.mappings()
        }
        for one in self.oracle.mappings:
            if one.alive:
                assert (one.protocol, one.inside, one.external) in mapped
        assert mapped <= {(one.protocol, one.inside, one.external) for one in self.oracle.mappings}

    def mapping_of(self, packet: Packet) -> Endpoint | None:
        """Where the sender of *packet* is outside, as the engine has it."""
        for one in self.engine.mappings():
            if (one.protocol, self.end(one.inside)) == (packet.protocol, packet.source):
                return self.end(one.external)
        return None

    def end(self, seen: tuple[str, int]) -> Endpoint:
        """An endpoint of the engine's as the model has it."""
        names = {address: name for name, address in self.address_of.items()}
        return Endpoint(names.get(seen[0], seen[0]), seen[1])

    def seen(self, frame: bytearray) -> Packet:
        return seen(frame)

    def numbered(self, packet: Packet, direction: Direction) -> Packet:
        """*packet* with its sequence number: a SYN after the end of its connection begins beyond the old ones."""
        if packet.protocol != "tcp":
            return dataclasses.replace(packet, flags=0)
        side = GUEST if direction == Direction.OUTBOUND else PEER
        flow = None
        if direction == Direction.INBOUND:
            flow = self.oracle.flow("tcp", packet.source, external=packet.destination)
        elif packet.destination.ip == EXTERNAL:
            flow, side = self.oracle.hairpin(packet)
        if flow is None and direction == Direction.OUTBOUND:
            flow = self.oracle.flow("tcp", packet.destination, inside=packet.source)
        if flow is None:
            return dataclasses.replace(packet, seq=ISN[side])
        if packet.flags == SYN and flow.phase in ("closing", "reset"):
            self.generations[flow] += 1
        base = ISN[side] + GENERATION * self.generations[flow]
        return dataclasses.replace(packet, seq=base if packet.flags & SYN else base + 1)

    def built(self, packet: Packet, direction: Direction) -> bytearray:
        if packet.protocol == "udp":
            return udp(packet.source, packet.destination)
        if packet.protocol == "tcp":
            generation = packet.seq // GENERATION * GENERATION
            other = PEER if packet.seq - generation < ISN[PEER] else GUEST
            ack = ISN[other] + generation + 1 if packet.flags & ACK else 0
            return tcp(packet.source, packet.destination, packet.flags, seq=packet.seq, ack=ack)
        if direction == Direction.OUTBOUND:
            return echo(packet.source.ip, packet.destination.ip, packet.source.number)
        return echo(packet.source.ip, packet.destination.ip, packet.destination.number, kind=ICMP_ECHO_REPLY)


def seen(frame: bytearray) -> Packet:
    """What scapy reads in *frame*."""
    packet = read(frame)
    source, destination = ends(packet)
    if ICMP in packet:
        return Packet("icmp", source, destination)
    if UDP in packet:
        return Packet("udp", source, destination)
    return Packet("tcp", source, destination, int(packet[TCP].flags), packet[TCP].seq)
