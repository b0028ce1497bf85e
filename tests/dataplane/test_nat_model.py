"""The NAT engine beside the oracle: any guests, ports, peers, protocols and pauses, in bursts of any size."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.oracle.nat import Flow, NatOracle, Packet
from tests.support.frames import (
    ACK,
    FIN,
    ICMP,
    ICMP_ECHO_REPLY,
    RST,
    SYN,
    TCP,
    UDP,
    Endpoint,
    echo,
    ends,
    read,
    tcp,
    udp,
)
from tests.support.nat import E2, E3, EXTERNAL, FORWARDED, A, B

RANGE = (50000, 50011)
FORWARD = ("tcp", Endpoint(EXTERNAL, 8080), Endpoint(B, 80))
PAUSES = [1, 2, 29, 31, 59, 61, 119, 121, 239, 241, 299, 301, 7439, 7441]
SEGMENTS = [SYN, SYN | ACK, ACK, FIN | ACK, RST]
ISN = {Direction.OUTBOUND: 1, Direction.INBOUND: 100}
GENERATION = 1_000_000  # how far apart the sequence numbers of a connection and of its successor are

guests = st.builds(Endpoint, st.sampled_from([A, B]), st.sampled_from([80, *range(4000, 4008)]))
peers = st.builds(Endpoint, st.sampled_from([E2, E3]), st.sampled_from([53, 80, 81]))
externals = st.builds(Endpoint, st.just(EXTERNAL), st.sampled_from([8080, *range(RANGE[0], RANGE[1] + 1)]))
protocols = st.sampled_from(["udp", "tcp", "tcp", "icmp"])
BURST_MAX = 4


def packets(
    sources: st.SearchStrategy[Endpoint], destinations: st.SearchStrategy[Endpoint]
) -> st.SearchStrategy[Any]:
    one = st.builds(Packet, protocols, sources, destinations, st.sampled_from(SEGMENTS))
    return st.lists(one, min_size=1, max_size=BURST_MAX)


class NatMachine(RuleBasedStateMachine):
    told: ClassVar[dict[str, Any]] = {}  # of the engine's configuration
    address_of: ClassVar[dict[str, str]] = {}  # addresses by the ones that the model has for them

    @initialize(
        filtering=st.sampled_from(
            ["endpoint-independent", "address-dependent", "address-and-port-dependent"]
        ),
        inbound_refresh=st.booleans(),
        port_parity=st.booleans(),
        preserve_ports=st.booleans(),
        fast_cache_size=st.sampled_from([0, 2, 256]),
        conntrack_size=st.sampled_from([8, 64]),
        flows_per_guest=st.sampled_from([6, 1000]),
        ports_per_guest=st.sampled_from([5, 1000]),
    )
    def start(self, **options: Any) -> None:
        config = NatEngineConfig(
            EXTERNAL, port_range=RANGE, l3_offset=0, seed=bytes(32), **options, **self.told
        )
        self.engine, self.oracle, self.now = NatEngine(config), NatOracle(config), 1000
        self.generations: collections.Counter[Flow] = collections.Counter()
        protocol, external, inside = FORWARD
        self.engine.add_forward(
            protocol, external.number, self.address_of.get(inside.ip, inside.ip), inside.number
        )
        self.oracle.forward(protocol, external, inside)

    @rule(burst=packets(guests, peers))
    def outbound(self, burst: list[Packet]) -> None:
        self.translate(burst, Direction.OUTBOUND)

    @rule(burst=packets(peers, externals))
    def inbound(self, burst: list[Packet]) -> None:
        self.translate(burst, Direction.INBOUND)

    @rule(
        flow=st.integers(0, 63), flags=st.sampled_from(SEGMENTS), direction=st.sampled_from(list(Direction))
    )
    def along_a_flow(self, flow: int, flags: int, direction: Direction) -> None:
        if not self.oracle.flows:
            return
        chosen = self.oracle.flows[flow % len(self.oracle.flows)]
        ways = {
            Direction.OUTBOUND: (chosen.mapping.inside, chosen.remote),
            Direction.INBOUND: (chosen.remote, chosen.mapping.external),
        }
        self.translate([Packet(chosen.mapping.protocol, *ways[direction], flags)], direction)

    @rule(seconds=st.sampled_from(PAUSES))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.engine.expire(float(self.now), 1 << 20)
        self.oracle.expire(self.now)

    @invariant()
    def the_same_flows_are_known(self) -> None:
        if not hasattr(self, "engine"):
            return
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

    @invariant()
    def the_same_mappings_are_alive(self) -> None:
        if not hasattr(self, "engine"):
            return
        found = {
            (one.protocol, self.end(one.inside), self.end(one.external)) for one in self.engine.mappings()
        }
        for one in self.oracle.mappings:
            if one.alive:
                assert (one.protocol, one.inside, one.external) in found
        assert found <= {(one.protocol, one.inside, one.external) for one in self.oracle.mappings}

    def translate(self, burst: list[Packet], direction: Direction) -> None:
        judge = self.oracle.outbound if direction == Direction.OUTBOUND else self.oracle.inbound
        burst = [self.numbered(packet, direction) for packet in burst]
        frames = [self.built(packet, direction) for packet in burst]
        before = [bytes(frame) for frame in frames]
        verdicts = self.engine.translate(frames, direction, float(self.now))
        for packet, frame, given, code in zip(burst, frames, before, verdicts, strict=True):
            verdict = Verdict(code)
            if verdict in FORWARDED:
                judge(packet, self.now, verdict, self.seen(frame))
            else:
                judge(packet, self.now, verdict, None)
                assert bytes(frame) == given, "a dropped frame is as it was"

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
        ways = {"inside": packet.source, "remote": packet.destination}
        if direction == Direction.INBOUND:
            ways = {"external": packet.destination, "remote": packet.source}
        flow = self.oracle.flow("tcp", **ways)
        if flow is None:
            return dataclasses.replace(packet, seq=ISN[direction])
        if packet.flags == SYN and flow.phase in ("closing", "reset"):
            self.generations[flow] += 1
        base = ISN[direction] + GENERATION * self.generations[flow]
        return dataclasses.replace(packet, seq=base if packet.flags & SYN else base + 1)

    def built(self, packet: Packet, direction: Direction) -> bytearray:
        if packet.protocol == "udp":
            return udp(packet.source, packet.destination)
        if packet.protocol == "tcp":
            generation = packet.seq // GENERATION * GENERATION
            ack = ISN[Direction(1 - direction)] + generation + 1 if packet.flags & ACK else 0
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


TestNatModel = NatMachine.TestCase
TestNatModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
