"""A NAT engine with a clock in hand: packets go in, and what became of them comes out."""

from __future__ import annotations

from typing import Any

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.nat_views import Emission, NatFlow, NatMapping
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.frames import ACK, SYN, Endpoint, Packet, ends, read, tcp

EXTERNAL = "203.0.113.1"
GATEWAY = "192.168.64.1"
A, B = "192.168.64.2", "192.168.64.3"  # guests
E2, E3 = "198.51.100.2", "198.51.100.3"  # outside
FORWARDED = (Verdict.VERDICT_FORWARD, Verdict.VERDICT_HAIRPIN)
EXPIRE_BUDGET = 1 << 20


class Nat:
    """An engine over bare IPv4 packets; *config* is `NatEngineConfig`'s."""

    def __init__(self, **config: Any) -> None:
        self.engine = NatEngine(
            NatEngineConfig(**{"external_ip": EXTERNAL, "l3_offset": 0, "seed": bytes(range(32)), **config})
        )
        self.now = 1000.0
        self._made: list[Emission] = []

    def verdict(self, packet: bytearray, direction: Direction) -> Verdict:
        """What becomes of *packet*, which is rewritten in place."""
        verdict = Verdict(self.engine.translate([packet], direction, self.now)[0])
        self._made += self.engine.emitted()
        return verdict

    def outbound(self, packet: bytearray) -> Verdict:
        return self.verdict(packet, Direction.OUTBOUND)

    def inbound(self, packet: bytearray) -> Verdict:
        return self.verdict(packet, Direction.INBOUND)

    def sent(self, packet: bytearray) -> Packet:
        """*packet* of a guest as it leaves: it is forwarded, and its checksums hold."""
        verdict = self.outbound(packet)
        assert verdict in FORWARDED, verdict.name
        return read(packet)

    def received(self, packet: bytearray) -> Packet:
        """*packet* of the uplink as the guest gets it: it is forwarded, and its checksums hold."""
        verdict = self.inbound(packet)
        assert verdict in FORWARDED, verdict.name
        return read(packet)

    def external(self, packet: bytearray) -> Endpoint:
        """The external endpoint that *packet* leaves from."""
        return ends(self.sent(packet))[0]

    def connect(self, guest: tuple[str, int] = (A, 4000), peer: tuple[str, int] = (E2, 80)) -> Endpoint:
        """The external endpoint of a TCP connection that *guest* opened: the next sequence numbers are 2 and 101."""
        external = self.external(tcp(guest, peer, SYN, seq=1))
        self.received(tcp(peer, external, SYN | ACK, seq=100, ack=2))
        self.sent(tcp(guest, peer, ACK, seq=2, ack=101))
        return external

    def emitted(self) -> list[Emission]:
        """What the engine itself made since it was last asked, in order."""
        made, self._made = self._made, []
        return made

    def answers(self) -> list[Packet]:
        """Those that go to guests."""
        return [read(one.frame) for one in self.emitted() if one.direction == Direction.INBOUND]

    def answers_outside(self) -> list[Packet]:
        """Those that go to the uplink."""
        return [read(one.frame) for one in self.emitted() if one.direction == Direction.OUTBOUND]

    def flows(self) -> list[NatFlow]:
        return list(self.engine.flows())

    def mappings(self) -> list[NatMapping]:
        return list(self.engine.mappings())

    def wait(self, seconds: float) -> None:
        """Let time pass, and what has run out expire."""
        self.now += seconds
        self.engine.expire(self.now, EXPIRE_BUDGET)
        self._made += self.engine.emitted()
