"""A question that upstreams are asked: who waits for its answer, and each try at getting it."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable

from arcbox_net.services.dns.upstreams import Upstream, UpstreamSet
from arcbox_net.services.dns.wire import FORMERR, NOTIMP, Query


@dataclasses.dataclass(slots=True)
class Waiter:
    """A client's query. `guest` is the address whose share of the lookups it counts against."""

    query: Query
    client: Hashable
    guest: bytes
    stream: bool


@dataclasses.dataclass(slots=True)
class Lookup:
    """`tried`: whom it was put to. `finished`: those who said no. `rcode`: what the last of them said."""

    key: bytes
    name: bytes
    qtype: int
    key_flags: int
    zone: bytes
    servers: UpstreamSet
    started: float
    waiters: list[Waiter]
    attempts: dict[int, Attempt] = dataclasses.field(default_factory=dict)
    tried: list[Upstream] = dataclasses.field(default_factory=list)
    finished: list[Upstream] = dataclasses.field(default_factory=list)
    rcode: int | None = None


@dataclasses.dataclass(slots=True)
class Attempt:
    """One query to one upstream. Without a lookup it is a probe for loops."""

    lookup: Lookup | None
    upstream: Upstream
    packet: bytes
    question: bytes
    stream: bool
    edns: bool
    started: float
    spoofs: int = 0
    other_case: bool = False

    def answered_by(self, packet: bytes) -> bool:
        """Whether *packet* answers this query: id, QR, opcode and the question to the letter."""
        if packet[:2] != self.packet[:2] or len(packet) < 12 or packet[2] & 0xF8 != 0x80:
            return False
        if packet[4:6] == b"\0\0":
            return self.edns and packet[3] & 15 in (FORMERR, NOTIMP)
        question = packet[12 : 12 + len(self.question)]
        if packet[4:6] != b"\0\1" or question.lower() != self.question.lower():
            return False
        if question == self.question:
            return True
        if self.stream:
            # Nobody off the path is in a TCP connection: this server does not keep the case.
            self.upstream.keeps_case = False
            return question[-4:] == self.question[-4:]
        self.other_case = True
        return False
