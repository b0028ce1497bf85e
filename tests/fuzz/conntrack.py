"""Arbitrary operations on a table of flows, beside a dictionary: what is found, what ends, and when.

An input is a byte of configuration, then steps: a byte that says what (`STEPS`), and what that step reads.
"""

from __future__ import annotations

import struct

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.fuzz.reader import Input, steps

Key = tuple[int, int]
FLOWS_MAX = 8
STEPS_MAX = 128
KEY_VALID = 1 << 63
PROTOCOLS = (1, 6, 17, 6)
TIMEOUT_S = {1: 60, 17: 300}
FOREVER = 0xFFFFFFFF


def key(number: int, protocol: int, direction: Direction) -> Key:
    """One of 256 keys of a protocol and direction."""
    return (number % 16) * 0x0101_0000_0001, KEY_VALID | direction << 40 | protocol << 32 | number // 16


class Session:
    """A table, and what ought to be in it: flows by number, each with its keys and when a guest last sent on it."""

    def __init__(self, options: int) -> None:
        self.table = Table(FLOWS_MAX, cache=(0, 2, 8, 256)[options & 3], inbound_refresh=bool(options & 4))
        self.refreshes = (Direction.OUTBOUND, Direction.INBOUND) if options & 4 else (Direction.OUTBOUND,)
        self.now = 1000
        self.flows: dict[int, tuple[int, Key, Key]] = {}
        self.seen: dict[int, int] = {}

    def open(self, read: Input) -> None:
        protocol, number, other = PROTOCOLS[read.number() & 3], read.number(), read.number()
        original, reply = key(number, protocol, Direction.OUTBOUND), key(other, protocol, Direction.INBOUND)
        taken = {one for _, *keys in self.flows.values() for one in keys}
        flow = self.table.open(original, reply, self.now)
        if original in taken or reply in taken or len(self.flows) == FLOWS_MAX:
            assert flow is None, "a key twice, or one flow too many"
            return
        assert flow is not None and flow not in self.flows
        self.flows[flow] = (protocol, original, reply)
        self.seen[flow] = self.now

    def find(self, read: Input) -> None:
        protocol, direction = PROTOCOLS[read.number() & 3], Direction(read.number() & 1)
        wanted = [key(number, protocol, direction) for number in read.take(read.number() % 8)]
        there = {one: 2 * flow + i for flow, (_, *keys) in self.flows.items() for i, one in enumerate(keys)}
        expected = [there.get(one) for one in wanted]
        assert [self.table.find(one) for one in wanted] == expected
        assert self.table.find_burst(wanted) == expected

    def see(self, read: Input) -> None:
        half = self.half(read)
        if half is None:
            return
        protocol = self.flows[half // 2][0]
        if protocol == 6:
            options = read.take(read.number() % 11 * 4)
            options += bytes(-len(options) % 4)
            flags, seq, ack, window = struct.unpack("!BIIH", read.take(11).ljust(11, b"\0"))
            header = struct.pack(
                "!HHIIBBHHH", 1, 2, seq, ack, 5 + len(options) // 4 << 4, flags, window, 0, 0
            )
            verdict = self.table.track(half, header + options + bytes(read.number()), self.now)
            assert verdict in (Verdict.VERDICT_FORWARD, Verdict.DROP_TCP_STATE)
            return
        self.table.seen(half, self.now)
        if half & 1 in self.refreshes:
            self.seen[half // 2] = self.now

    def close(self, read: Input) -> None:
        half = self.half(read)
        if half is not None:
            self.table.close(half // 2)
            assert self.table.gone == [half // 2]
            self.forget()
            self.check()

    def wait(self, read: Input) -> None:
        self.now += read.number(2)
        budget = read.number() or FOREVER
        due = {flow: self.table.expires(flow) for flow in self.flows}
        self.table.expire(self.now, budget)
        assert all(due[flow] <= self.now for flow in self.table.gone), "ended early"
        self.forget()
        self.check()
        if not self.table.behind(self.now):
            assert all(due[flow] > self.now for flow in self.flows), "overdue"

    def half(self, read: Input) -> int | None:
        """The number of one of the halves."""
        chosen = read.number()
        numbers = sorted(self.flows)
        return 2 * numbers[(chosen >> 1) % len(numbers)] + (chosen & 1) if numbers else None

    def forget(self) -> None:
        for flow in self.table.gone:
            del self.flows[flow], self.seen[flow]
        self.table.gone.clear()

    def check(self) -> None:
        assert sorted(self.table.flows()) == sorted(self.flows)
        assert self.table.stats["indexed"] == 2 * len(self.flows) == 2 * len(self.table)
        for flow, (protocol, *_) in self.flows.items():
            if protocol in TIMEOUT_S:
                assert self.table.expires(flow) == self.seen[flow] + TIMEOUT_S[protocol] + 1


STEPS = (Session.open, Session.find, Session.see, Session.close, Session.wait, Session.open, Session.see)


def operate(body: bytes) -> None:
    """The target: operations on a table of flows."""
    read = Input(body)
    session = Session(read.number())
    for step in steps(read, STEPS_MAX):
        STEPS[step % len(STEPS)](session, read)
    session.check()
