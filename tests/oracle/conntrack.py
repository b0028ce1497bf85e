"""A table of flows as one would write it without a thought for speed: a dict of keys, a scan to expire.

TCP sequence numbers are compared by `distance`, states are words, and nothing is derived from bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Key = tuple[int, int]

FIN, SYN, RST, ACK = 1, 2, 4, 16
TCP, UDP, ICMP = 6, 17, 1


def distance(start: int, number: int) -> int:
    """How far *number* is after *start*, going round 32 bits."""
    return (number - start) % (1 << 32)


@dataclass(frozen=True)
class Timeouts:
    """Seconds."""

    opening: int = 240
    established: int = 7440
    closing: int = 240
    reset: int = 240
    udp: int = 300
    icmp: int = 60
    inbound_refresh: bool = False
    ports: Mapping[int, int] = field(default_factory=dict)


@dataclass
class Segment:
    """A TCP segment: *taken* is what it takes of the sequence space."""

    flags: int
    seq: int
    ack: int = 0
    window: int = 1000
    size: int = 0
    scale: int | None = None

    @property
    def taken(self) -> int:
        return self.size + bool(self.flags & SYN) + bool(self.flags & FIN)


@dataclass
class Way:
    """What one end has shown of itself."""

    key: Key
    last_seen: int
    packets: int = 0
    syn: tuple[int, int] | None = None  # the number of its SYN and what the segment took
    scale: int | None = None
    acknowledged: int | None = None
    window: int = 0
    fin: bool = False
    rst: bool = False

    @property
    def from_guest(self) -> bool:
        return not self.key[1] >> 40 & 1


@dataclass
class Flow:
    original: Way
    reply: Way
    opened: int

    @property
    def ways(self) -> tuple[Way, Way]:
        return self.original, self.reply

    @property
    def protocol(self) -> int:
        return self.original.key[1] >> 32 & 0xFF

    @property
    def state(self) -> str:
        fins = sum(way.fin for way in self.ways)
        if any(way.rst for way in self.ways):
            return "reset"
        if fins == 2:
            return "closing"
        if any(way.syn is None or way.acknowledged is None for way in self.ways):
            return "opening"
        return "half closed" if fins else "established"


class Conntrack:
    """Flows by both of their keys."""

    def __init__(self, limit: int, timeouts: Timeouts) -> None:
        self.limit = limit
        self.timeouts = timeouts
        self.flows: list[Flow] = []

    def find(self, key: Key) -> Flow | None:
        return next((flow for flow in self.flows for way in flow.ways if way.key == key), None)

    def open(self, original: Key, reply: Key, now: int) -> Flow | None:
        if len(self.flows) == self.limit or self.find(original) or self.find(reply):
            return None
        self.flows.append(Flow(Way(original, now), Way(reply, now), now))
        return self.flows[-1]

    def expire(self, now: int) -> list[Flow]:
        """The flows that have been idle for longer than their timeout, which are then gone."""
        idle = [flow for flow in self.flows if now - self.last_seen(flow) > self.timeout(flow)]
        self.flows = [flow for flow in self.flows if flow not in idle]
        return idle

    def last_seen(self, flow: Flow) -> int:
        every = flow.protocol == TCP or self.timeouts.inbound_refresh
        return max(way.last_seen for way in flow.ways if every or way.from_guest)

    def timeout(self, flow: Flow) -> int:
        if flow.protocol == TCP:
            state = "established" if flow.state == "half closed" else flow.state
            return int(getattr(self.timeouts, state))
        if flow.protocol == ICMP:
            return self.timeouts.icmp
        guests = flow.original if flow.original.from_guest else flow.reply
        port = int.from_bytes(guests.key[1].to_bytes(8, "little")[2:4], "big")
        return self.timeouts.ports.get(port, self.timeouts.udp)

    def track(self, flow: Flow, way: Way, segment: Segment, now: int) -> bool:
        """Note a segment of *way*; whether it may pass."""
        other = flow.reply if way is flow.original else flow.original
        before = flow.state
        if segment.flags & RST:
            return self.reset(flow, way, other, segment, now)
        if segment.flags & (SYN | ACK) == SYN and begins_anew(before, other, segment):
            for end in (way, other):
                end.syn = end.scale = end.acknowledged = None
                end.fin = end.rst = False
        elif before == "reset":
            if way.from_guest and not segment.flags & SYN:
                way.last_seen = now
            return True
        elif segment.flags & SYN and before != "opening":
            return True
        if segment.flags & ACK and way.acknowledged is None:
            synchronized = way.syn is not None or segment.flags & SYN
            if not synchronized or not answers_syn(other, segment):
                return True
        last = (segment.seq + segment.taken - 1) % (1 << 32)
        ends = bool(segment.flags & FIN and other.acknowledged is not None) and way_reaches(other, last)
        moves = bool(segment.flags & ACK)
        if moves and way.acknowledged is not None:
            moves = acknowledgment_counts(way, segment)
            if not moves and not ends and not way.from_guest:
                return True
        way.last_seen = now
        if segment.flags & SYN:
            way.scale = None if segment.scale is None else min(segment.scale, 14)
            if other.syn is not None and None in (way.scale, other.scale):  # 7323-2.2: both, or neither
                way.scale = other.scale = None
            if other.acknowledged is None:
                way.syn = (segment.seq, segment.taken)
        if moves:
            scaled = way.scale is not None and other.scale is not None and not segment.flags & SYN
            self.acknowledge(way, other, segment.ack, segment.window << (way.scale or 0 if scaled else 0))
        way.fin = way.fin or ends
        return True

    def acknowledge(self, way: Way, other: Way, number: int, offered: int) -> None:
        """A window that was offered once stays open; before the first it is what the other's SYN took."""
        if way.acknowledged is not None:
            end = way.acknowledged + way.window
        else:
            assert other.syn is not None
            end = sum(other.syn)
        way.acknowledged = number
        way.window = offered if distance(end, number + offered) < 1 << 31 else distance(number, end)

    def reset(self, flow: Flow, way: Way, other: Way, segment: Segment, now: int) -> bool:
        before = flow.state
        if before == "reset":
            return True
        if way.syn is None:
            counts = bool(segment.flags & ACK) and answers_syn(other, segment)
        elif other.acknowledged is None:
            counts = distance(way.syn[0], segment.seq) <= way.syn[1]
        else:
            counts = way_reaches(other, segment.seq)
        if counts:
            way.rst = True
            way.last_seen = now
        return counts or before == "opening"


def way_reaches(receiver: Way, number: int) -> bool:
    """Whether a sequence number is within what the receiver offered."""
    assert receiver.acknowledged is not None
    return distance(receiver.acknowledged, number) <= receiver.window


def acknowledgment_counts(way: Way, segment: Segment) -> bool:
    """A guest's if it is not old; from outside it must be of what the way offered, or of a probe or FIN beyond."""
    assert way.acknowledged is not None
    ahead = distance(way.acknowledged, segment.ack)
    return ahead < 1 << 31 if way.from_guest else ahead <= way.window + 2


def answers_syn(other: Way, segment: Segment) -> bool:
    """Whether the segment acknowledges some of what the other end's SYN took."""
    return other.syn is not None and 1 <= distance(other.syn[0], segment.ack) <= other.syn[1]


def begins_anew(state: str, other: Way, segment: Segment) -> bool:
    if state == "closing":
        assert other.acknowledged is not None
        return distance(other.acknowledged, segment.seq) < 1 << 31
    return state == "reset"
