"""A NAT as the RFCs describe it: slow, readable, and the judge of what an engine did with each packet.

Nothing here chooses: where a NAT is free (which port, which of two reasons to refuse) the oracle looks at what the
engine did and says whether it was allowed to. Where it is not free, there is one right answer. Rows in comments are
those of RFC 4787 (UDP), 5382 (TCP), 5508 (ICMP), 6888 (shared addresses) and 7857 (updates).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.verdict import Verdict
from tests.support.frames import ACK, FIN, RST, SYN, Endpoint

GUEST, PEER = 0, 1  # who sent a segment
FILTERED = (Verdict.DROP_FILTERED, Verdict.DROP_UNSOLICITED_SYN)
ADMITS = {
    "endpoint-independent": lambda contacted, remote: True,
    "address-dependent": lambda contacted, remote: remote.ip in {peer.ip for peer in contacted},
    "address-and-port-dependent": lambda contacted, remote: False,  # else a flow would have been found
}


@dataclasses.dataclass(frozen=True)
class Packet:
    """What matters of a packet. An ICMP query has its identifier at both ends, and only requests and replies exist."""

    protocol: str
    source: Endpoint
    destination: Endpoint
    flags: int = 0
    seq: int = 0

    def moved(self, *, source: Endpoint | None = None, destination: Endpoint | None = None) -> Packet:
        """This packet with another source or destination; an ICMP identifier changes at both ends."""
        src, dst = source or self.source, destination or self.destination
        if self.protocol == "icmp":
            number = source.number if source else dst.number
            src, dst = Endpoint(src.ip, number), Endpoint(dst.ip, number)
        return dataclasses.replace(self, source=src, destination=dst)


@dataclasses.dataclass(eq=False)
class Mapping:
    """An endpoint inside, its external endpoint, and the flows that use it."""

    protocol: str
    inside: Endpoint
    external: Endpoint
    static: bool = False
    flows: list[Flow] = dataclasses.field(default_factory=list)
    ended: int = 0  # when its last flow went

    @property
    def alive(self) -> bool:
        return self.static or any(flow.strong for flow in self.flows)


@dataclasses.dataclass(eq=False)
class Flow:
    """Packets between a mapping and one remote endpoint."""

    mapping: Mapping
    remote: Endpoint
    strong: bool  # a guest sent on it (or a forward leads to it): it keeps its mapping alive
    seen: int  # when a packet last refreshed it
    incoming: bool = False  # somebody outside opened it
    far: Flow | None = None  # of a hairpin: what the other guest's mapping has of it
    flags: list[int] = dataclasses.field(
        default_factory=lambda: [0, 0]
    )  # of GUEST and PEER, all that counted
    seq: list[int] = dataclasses.field(default_factory=lambda: [0, 0])  # the highest

    def segment(self, side: int, packet: Packet) -> bool:
        """Take a TCP segment into account that is in its window; whether it counts for the timer."""
        flags, other = packet.flags, 1 - side
        opens = flags & (SYN | ACK) == SYN
        if opens and (self.phase == "reset" or (self.phase == "closing" and packet.seq > self.seq[side])):
            self.flags = [0, 0]  # 5382-2: a connection in place of the one that is over
        self.seq[side] = max(self.seq[side], packet.seq)
        if self.phase == "reset":
            # 7857-2.2: a forged RST does not end what goes on. Of a hairpin both ends are guests.
            return (side == GUEST or self.far is not None) and not flags & (SYN | RST)
        if flags & RST:
            refuses = bool(flags & ACK and self.flags[other] & SYN)  # an answer to a SYN
            counts = bool(self.flags[side] & SYN) or refuses
        elif flags & SYN and self.phase != "partial":
            counts = False
        else:
            synchronized = (self.flags[side] | flags) & self.flags[other] & SYN
            counts = not flags & ACK or bool(self.flags[side] & ACK or synchronized)
        if flags & FIN and not self.flags[other] & ACK:
            flags &= ~FIN
        if counts:
            self.flags[side] |= flags
        return counts

    @property
    def phase(self) -> str:
        guest, peer = self.flags
        if (guest | peer) & RST:
            return "reset"
        if guest & peer & FIN:
            return "closing"
        return "established" if guest & peer & SYN and guest & peer & ACK else "partial"


class NatOracle:
    """The state of the NAT that `config` asks for, kept by what an engine did. Time is in whole seconds."""

    def __init__(self, config: NatEngineConfig) -> None:
        self.config = config
        self.flows: list[Flow] = []
        self.mappings: list[Mapping] = []
        self.held: list[Mapping] = []  # whose ports are kept from other guests

    def forward(self, protocol: str, external: Endpoint, inside: Endpoint) -> None:
        """An external port leads to a guest from now on."""
        self.mappings.append(Mapping(protocol, inside, external, static=True))

    def outbound(self, packet: Packet, now: int, verdict: Verdict, out: Packet | None) -> None:
        """Judge what became of a guest's packet; *out* is how it left, None if it was dropped."""
        flow = self.flow(packet.protocol, packet.destination, inside=packet.source)
        if flow is not None:
            assert verdict == Verdict.VERDICT_FORWARD, verdict.name
            assert out == packet.moved(source=flow.mapping.external)
            self._sent(flow, packet, now)
            return
        if packet.protocol == "tcp" and packet.flags & (SYN | ACK | RST | FIN) != SYN:
            assert verdict == Verdict.DROP_NO_FLOW, verdict.name
            return
        mapping = self._mapping(packet.protocol, inside=packet.source)
        if verdict != Verdict.VERDICT_FORWARD:
            assert verdict in self._refusals(packet, mapping, now, may=True), verdict.name
            return
        assert not list(self._refusals(packet, mapping, now, may=False)), (
            "RFC 6888 REQ-4, REQ-11: a limit is exceeded"
        )
        assert out is not None
        if mapping is None:
            mapping = self._adopt(packet, out.source, now)
        assert out == packet.moved(source=mapping.external), (
            "RFC 4787 REQ-1: one mapping serves every destination"
        )
        self._begin(Flow(mapping, packet.destination, strong=True, seen=now)).segment(GUEST, packet)

    def inbound(self, packet: Packet, now: int, verdict: Verdict, out: Packet | None) -> None:
        """Judge what became of a packet from outside; *out* is how the guest got it, None if it was dropped."""
        mapping = self._mapping(packet.protocol, external=packet.destination)
        flow = self.flow(packet.protocol, packet.source, external=packet.destination)
        if flow is not None and (flow.strong or mapping is not None):
            assert verdict == Verdict.VERDICT_FORWARD, verdict.name
            assert out == packet.moved(destination=flow.mapping.inside)
            self._arrived(flow, packet, now)
            return
        if flow is not None:
            assert verdict in FILTERED, "4787-6: what the guest never answered keeps nothing open"
            self._end(flow, now)
            return
        if mapping is None:
            assert verdict == Verdict.DROP_NO_MAPPING, verdict.name
            return
        if packet.protocol == "icmp":
            assert verdict == Verdict.DROP_NO_MAPPING, "a reply opens nothing"
            return
        contacted = [one.remote for one in mapping.flows if one.strong]
        if not (mapping.static or ADMITS[self.config.filtering](contacted, packet.source)):
            assert verdict in FILTERED, verdict.name
            return
        if packet.protocol == "tcp" and packet.flags & (SYN | ACK | RST | FIN) != SYN:
            assert verdict == Verdict.DROP_NO_FLOW, verdict.name
            return
        full = set(self._full(mapping.inside.ip, static=mapping.static, incoming=True))
        if full:
            assert verdict in full, verdict.name
            return
        assert verdict == Verdict.VERDICT_FORWARD, verdict.name
        assert out == packet.moved(destination=mapping.inside)
        flow = Flow(mapping, packet.source, strong=mapping.static, seen=now, incoming=True)
        self._begin(flow).segment(PEER, packet)

    def error_from_outside(self, quoted: Packet) -> Packet | None:
        """5508-4: how a guest sees its own packet quoted; None: no flow has that packet, and the error is dropped."""
        flow = self.flow(quoted.protocol, quoted.destination, external=quoted.source)
        return flow and quoted.moved(source=flow.mapping.inside)

    def error_from_a_guest(self, quoted: Packet) -> Packet | None:
        """5508-5: how somebody outside sees its own packet quoted by a guest."""
        flow = self.flow(quoted.protocol, quoted.source, inside=quoted.destination)
        return flow and quoted.moved(destination=flow.mapping.external)

    def expire(self, now: int) -> None:
        """Forget the flows whose time is over at *now*, the mappings that nobody uses, and the holds that are over."""
        for flow in [one for one in self.flows if now - one.seen > self.timeout(one)]:
            self._end(flow, now)
        self.held = [one for one in self.held if now - one.ended <= self.config.port_hold_s]

    def _begin(self, flow: Flow) -> Flow:
        self.flows.append(flow)
        flow.mapping.flows.append(flow)
        if flow.far is not None:
            flow.far.mapping.flows.append(flow.far)
        return flow

    def _end(self, flow: Flow, now: int) -> None:
        """Forget *flow*, and mappings that it was the last to use."""
        self.flows.remove(flow)
        for one in (flow, flow.far):
            if one is None:
                continue
            mapping = one.mapping
            mapping.flows.remove(one)
            if not mapping.flows and not mapping.static:
                self.mappings.remove(mapping)
                self.held.append(mapping)
                mapping.ended = now

    def timeout(self, flow: Flow) -> int:
        """For how many seconds *flow* may be idle."""
        config = self.config
        if flow.mapping.protocol == "udp":
            return config.udp_port_timeouts_s.get(flow.remote.number, config.udp_timeout_s)
        if flow.mapping.protocol == "icmp":
            return config.icmp_timeout_s
        return {
            "partial": config.tcp_partial_timeout_s,
            "established": config.tcp_established_timeout_s,
            "closing": config.tcp_closing_timeout_s,
            "reset": config.tcp_reset_timeout_s,
        }[flow.phase]

    def _sent(self, flow: Flow, packet: Packet, now: int) -> None:
        flow.strong = True
        if packet.protocol != "tcp" or flow.segment(GUEST, packet):
            flow.seen = now

    def _arrived(self, flow: Flow, packet: Packet, now: int) -> None:
        # RFC 4787 REQ-6: what comes in keeps nothing alive, unless asked to; TCP's own segments do.
        if flow.segment(PEER, packet) if packet.protocol == "tcp" else self.config.inbound_refresh:
            flow.seen = now

    def _adopt(self, packet: Packet, external: Endpoint, now: int) -> Mapping:
        """The mapping that the engine made for *packet*, which it was free to choose within limits."""
        guest = packet.source.ip
        assert external in self._ports(), "outside the ranges"
        for one in self.mappings:
            if one.protocol == packet.protocol:
                assert one.external != external, "RFC 4787 REQ-3: a port is given twice"
        for one in self.held:
            if (
                one.protocol == packet.protocol
                and one.inside.ip != guest
                and now - one.ended < self.config.port_hold_s
            ):
                assert one.external != external, (
                    "RFC 6888 REQ-8: another guest's port, before the hold is over"
                )
        for one in self.mappings:
            if one.inside.ip == guest and not one.static:
                assert one.external.ip == external.ip, "RFC 4787 REQ-2: a guest keeps one external address"
        assert self._fits(packet, external), "RFC 4787 REQ-4: another parity"
        self.held = [one for one in self.held if (one.protocol, one.external) != (packet.protocol, external)]
        mapping = Mapping(packet.protocol, packet.source, external)
        self.mappings.append(mapping)
        return mapping

    def _refusals(self, packet: Packet, mapping: Mapping | None, now: int, *, may: bool) -> Iterator[Verdict]:
        """The reasons that there *may* be, any of which is right, not to open a flow for *packet*, or must be.

        A hold that ends this second may be over, and a guest's own port on hold may count as one that it has.
        """
        guest = packet.source.ip
        yield from self._full(guest, static=mapping is not None and mapping.static)
        if mapping is not None:
            return
        live = [one for one in self.mappings if one.protocol == packet.protocol]
        held = [
            one
            for one in self.held
            if one.protocol == packet.protocol and now - one.ended < self.config.port_hold_s + may
        ]
        counted = [*live, *held] if may else live
        quota = self.config.ports_per_guest
        if quota is not None and sum(one.inside.ip == guest and not one.static for one in counted) >= quota:
            yield Verdict.DROP_GUEST_PORTS
        used = {one.external for one in live} | {one.external for one in held if one.inside.ip != guest}
        if not any(self._fits(packet, one) for one in self._ports() if one not in used):
            yield Verdict.DROP_PORTS_EXHAUSTED

    def _full(self, guest: str, *, static: bool, incoming: bool = False) -> Iterator[Verdict]:
        """6888-4: what others open to a guest has a limit of its own, half of what the guest may open.

        So has what passes by the operator's forwards to it.
        """
        quota = self.config.flows_per_guest
        if len(self.flows) >= self.config.conntrack_size:
            yield Verdict.DROP_FLOWS_FULL
        alike = [
            one
            for one in self.flows
            if (one.mapping.inside.ip, one.mapping.static, one.incoming) == (guest, static, incoming)
        ]
        if len(alike) >= ((quota + 1) // 2 if incoming else quota):
            yield Verdict.DROP_GUEST_FLOWS

    def _ports(self) -> Iterator[Endpoint]:
        for address, spans in self.config.externals():
            for low, high in spans:
                yield from (Endpoint(str(address), number) for number in range(low, high + 1))

    def _fits(self, packet: Packet, external: Endpoint) -> bool:
        """RFC 4787 REQ-4: the parity of a port is kept where that is asked for. An ICMP identifier has none."""
        free = packet.protocol == "icmp" or not self.config.port_parity
        return free or external.number % 2 == packet.source.number % 2

    def flow(
        self,
        protocol: str,
        remote: Endpoint,
        *,
        inside: Endpoint | None = None,
        external: Endpoint | None = None,
    ) -> Flow | None:
        for flow in self.flows:
            mapping = flow.mapping
            ends = inside in (None, mapping.inside) and external in (None, mapping.external)
            if ends and mapping.protocol == protocol and _same(protocol, flow.remote, remote):
                return flow
        return None

    def _mapping(
        self, protocol: str, *, inside: Endpoint | None = None, external: Endpoint | None = None
    ) -> Mapping | None:
        for one in self.mappings:
            if one.protocol == protocol and inside in (None, one.inside) and external in (None, one.external):
                return one if one.alive or inside is not None else None
        return None


def _same(protocol: str, one: Endpoint, other: Endpoint) -> bool:
    """Whether two remote ends are the same; that of an ICMP query has no number of its own."""
    return one.ip == other.ip if protocol == "icmp" else one == other
