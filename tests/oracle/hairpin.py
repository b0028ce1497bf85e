"""What becomes of a guest's packet to an external endpoint: RFC 4787 REQ-9, RFC 5382 REQ-8.

Such a packet goes out by its sender's mapping and comes in by that of the guest it is for, whose filter judges it as it
would anybody's. Refused, its sender has asked all the same: its own filter lets the other one in, and then both are one
flow, which is its opener's to pay.
"""

from __future__ import annotations

from arcbox_net.dataplane.verdict import Verdict
from tests.oracle.nat import ADMITS, FILTERED, GUEST, PEER, Flow, Mapping, NatOracle, Packet
from tests.support.frames import ACK, FIN, RST, SYN, Endpoint


class HairpinOracle(NatOracle):
    """A flow whose remote end is an external endpoint, and that is no hairpin (`far`), waits for the other guest."""

    def between(
        self, packet: Packet, now: int, verdict: Verdict, out: Packet | None, chosen: Endpoint | None
    ) -> None:
        """As `outbound`, of a packet to an external address. *chosen*: the engine's mapping of its sender."""
        flow, side = self.hairpin(packet)
        if flow is not None:
            self._along(flow, side, packet, now, verdict, out)
            return
        waiting = self.flow(packet.protocol, packet.destination, inside=packet.source)
        if packet.protocol == "icmp":
            assert verdict == Verdict.DROP_NO_MAPPING, "5508-7: an identifier is no endpoint of a guest"
            return
        if waiting is None and packet.protocol == "tcp" and packet.flags & (SYN | ACK | RST | FIN) != SYN:
            assert verdict == Verdict.DROP_NO_FLOW, verdict.name
            return
        target = self._mapping(packet.protocol, external=packet.destination)
        if target is None:
            assert verdict == Verdict.DROP_NO_MAPPING, verdict.name
            return
        own = self._mapping(packet.protocol, inside=packet.source)
        if verdict in self._refusals(packet, own, now, may=True):
            return
        if own is target:
            assert verdict == Verdict.DROP_MARTIAN, verdict.name
            return
        assert chosen is not None
        if own is None:
            own = self._adopt(packet, chosen, now)
        back = self.flow(packet.protocol, own.external, inside=target.inside)
        if self._admits(target, own.external, back):
            assert verdict == Verdict.VERDICT_HAIRPIN, verdict.name
            assert out == packet.moved(source=own.external, destination=target.inside), "4787-9 (a)"
            self._open(packet, own, target, now, strong=target.static or back is not None)
            for one in (waiting, back):
                if one is not None:
                    self._end(one, now)
            return
        assert verdict in FILTERED, verdict.name
        if waiting is None:
            self._begin(Flow(own, packet.destination, strong=True, seen=now))

    def hairpin(self, packet: Packet) -> tuple[Flow | None, int]:
        """The flow that a guest's packet is of, and which of its ends sent it."""
        for flow in self.flows:
            if flow.far is None or flow.mapping.protocol != packet.protocol:
                continue
            ends = packet.source, packet.destination
            if ends == (flow.mapping.inside, flow.remote):
                return flow, GUEST
            if ends == (flow.far.mapping.inside, flow.far.remote):
                return flow, PEER
        return None, GUEST

    def _along(
        self, flow: Flow, side: int, packet: Packet, now: int, verdict: Verdict, out: Packet | None
    ) -> None:
        far = flow.far
        assert far is not None
        if side == GUEST and not far.strong and not far.mapping.alive:
            assert verdict in FILTERED, "4787-6: what the other guest never answered keeps nothing open"
            self._end(flow, now)
            return
        assert verdict == Verdict.VERDICT_HAIRPIN, verdict.name
        one, other = (flow, far) if side == GUEST else (far, flow)
        assert out == packet.moved(source=one.mapping.external, destination=other.mapping.inside)
        far.strong |= side == PEER and not packet.flags & RST
        if packet.protocol != "tcp" or flow.segment(side, packet):
            flow.seen = now

    def _admits(self, target: Mapping, remote: Endpoint, back: Flow | None) -> bool:
        contacted = [one.remote for one in target.flows if one.strong]
        return target.static or back is not None or ADMITS[self.config.filtering](contacted, remote)

    def _open(self, packet: Packet, own: Mapping, target: Mapping, now: int, *, strong: bool) -> None:
        far = Flow(target, own.external, strong=strong, seen=now)
        self._begin(Flow(own, packet.destination, strong=True, seen=now, far=far)).segment(GUEST, packet)
