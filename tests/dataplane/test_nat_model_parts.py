"""The NAT engine beside the oracle once more, with datagrams in fragments and ICMP errors about what was sent."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from scapy.layers.inet import ICMP as ICMPLayer
from scapy.layers.inet import IP

from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.dataplane.test_nat_model import NatMachine, externals, guests, peers
from tests.oracle.nat import Packet
from tests.support.compared_nat import seen
from tests.support.frames import Endpoint, fragments, icmp, read
from tests.support.nat import E2, EXTERNAL, FORWARDED, A

UNREACHABLE, PORT_UNREACHABLE = 3, 3
L4_HEADER_BYTES = 8
ROUTER = "198.51.100.254"

datagrams = st.sampled_from(["udp", "icmp"])


class PartsMachine(NatMachine):
    identification = 0

    @rule(protocol=datagrams, guest=guests, peer=peers, last_first=st.booleans(), twice=st.booleans())
    def outbound_in_fragments(
        self, protocol: str, guest: Endpoint, peer: Endpoint, last_first: bool, twice: bool
    ) -> None:
        self.in_fragments(Packet(protocol, guest, peer), Direction.OUTBOUND, last_first, twice)

    @rule(protocol=datagrams, external=externals, peer=peers, last_first=st.booleans(), twice=st.booleans())
    def inbound_in_fragments(
        self, protocol: str, external: Endpoint, peer: Endpoint, last_first: bool, twice: bool
    ) -> None:
        self.in_fragments(Packet(protocol, peer, external), Direction.INBOUND, last_first, twice)

    def in_fragments(self, packet: Packet, direction: Direction, last_first: bool, twice: bool) -> None:
        """N14: in whatever order they come, and however often, fragments are translated as the datagram is."""
        PartsMachine.identification += 1
        parts = fragments(
            self.built(packet, direction),
            [L4_HEADER_BYTES],
            identification=PartsMachine.identification % 65536,
        )
        if last_first:
            parts.reverse()
        if twice:
            parts.insert(1, bytearray(parts[0]))
        *ahead, last = [Verdict(one) for one in self.engine.translate(parts, direction, float(self.now))]
        assert ahead == [Verdict.VERDICT_HELD, Verdict.DROP_FRAGMENT_DUPLICATE][: len(ahead)]
        judge = self.oracle.outbound if direction == Direction.OUTBOUND else self.oracle.inbound
        if last != Verdict.VERDICT_FRAGMENTED:
            judge(packet, self.now, last, None)
            return
        (one,) = [one for one in self.engine.emitted() if one.direction == direction]
        judge(packet, self.now, Verdict.VERDICT_FORWARD, seen(bytearray(one.frame)))

    @rule(flow=st.integers(0, 63), known=st.booleans())
    def error_from_outside(self, flow: int, known: bool) -> None:
        """I2: somebody on the way says that what a guest sent did not arrive."""
        sent = self.about(
            flow, known, Packet("udp", Endpoint(EXTERNAL, 49_000), Endpoint(E2, 53)), Direction.OUTBOUND
        )
        error = self.error(sent, ROUTER, sent.source.ip, Direction.INBOUND)
        wanted = self.oracle.error_from_outside(sent)
        self.judge_error(error, sent, Direction.INBOUND, wanted and (ROUTER, wanted.source.ip, wanted))

    @rule(flow=st.integers(0, 63), known=st.booleans())
    def error_from_a_guest(self, flow: int, known: bool) -> None:
        """I3: a guest says that it does not want what it was sent."""
        got = self.about(flow, known, Packet("udp", Endpoint(E2, 53), Endpoint(A, 4999)), Direction.INBOUND)
        error = self.error(got, got.destination.ip, got.source.ip, Direction.OUTBOUND)
        wanted = self.oracle.error_from_a_guest(got)
        self.judge_error(
            error, got, Direction.OUTBOUND, wanted and (wanted.destination.ip, got.source.ip, wanted)
        )

    def about(self, number: int, known: bool, unknown: Packet, sent: Direction) -> Packet:
        """A packet of a known flow as it is on the side that it was *sent* to, or *unknown*."""
        flows = [one for one in self.oracle.flows if one.remote.ip != EXTERNAL]
        if not known or not flows:
            return unknown
        flow = flows[number % len(flows)]
        mapping = flow.mapping
        if sent == Direction.OUTBOUND:
            return Packet(mapping.protocol, mapping.external, flow.remote).moved(source=mapping.external)
        return Packet(mapping.protocol, flow.remote, mapping.inside).moved(destination=mapping.inside)

    def error(self, quoted: Packet, src: str, dst: str, direction: Direction) -> bytearray:
        quote = self.built(quoted, Direction(1 - direction))
        return icmp(src, dst, UNREACHABLE, PORT_UNREACHABLE, 0, bytes(quote))

    def judge_error(
        self, error: bytearray, quoted: Packet, direction: Direction, wanted: tuple[str, str, Packet] | None
    ) -> None:
        """I4: nothing else of the state changes, which the invariants and later pauses show."""
        verdict = Verdict(self.engine.translate([error], direction, float(self.now))[0])
        if wanted is None:
            assert verdict == Verdict.DROP_ICMP_NO_FLOW, verdict.name
            return
        if quoted.protocol == "tcp" and verdict == Verdict.DROP_BAD_ICMP:
            return  # I11: about a segment that is not in flight
        assert verdict in FORWARDED, verdict.name
        src, dst, packet = wanted
        left = read(error)
        assert (left.src, left.dst) == (src, dst)
        assert (left[ICMPLayer].type, left[ICMPLayer].code) == (UNREACHABLE, PORT_UNREACHABLE)
        inner = seen(bytearray(bytes(IP(bytes(error)[28:]))))
        assert (inner.protocol, inner.source, inner.destination) == (
            packet.protocol,
            packet.source,
            packet.destination,
        )


TestNatModelParts = PartsMachine.TestCase
TestNatModelParts.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
