"""Tables with and without a cache beside the readable one of tests/oracle, whatever is done to them."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane.verdict import Verdict
from tests.oracle.conntrack import Conntrack, Flow, Segment, Timeouts
from tests.support.conntrack import ACK, FIN, ICMP, RST, SYN, TCP, UDP, Key, segment, ways

LIMIT = 6
TIMEOUTS = {"opening": 24, "established": 744, "closing": 25, "reset": 26, "udp": 30, "icmp": 6}
PORTS = {53: 3}
CACHES = (0, 1, 2, 256)
NUMBERS = st.integers(0, 9)
FLAGS = st.sampled_from([SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK])
# Around what the other end expects, with both ends' numbers about to wrap around.
OFFSETS = st.sampled_from([0, 0, 0, 0, 1, -1, 50, 51, 99, 1 << 31, -(1 << 30)])
START = (1 << 32) - 3


def keys(number: int) -> tuple[Key, Key]:
    """Flows of every protocol; some opened from outside, and 8 and 9 with the same reply key."""
    protocol = (UDP, TCP, TCP, ICMP, TCP)[number % 5]
    original, reply = ways(number, protocol, 53 if number % 2 else 9000)
    if number == 9:
        reply = keys(8)[1]
    return (reply, original) if number in (5, 7) else (original, reply)


class Tables(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000
        timeouts = dict(TIMEOUTS)
        self.oracle = Conntrack(LIMIT, Timeouts(**timeouts, ports=PORTS))
        self.tables = [Table(LIMIT, cache, ports=PORTS, **timeouts) for cache in CACHES]  # type: ignore[arg-type]
        self.numbers: dict[int, Flow] = {}
        for number in (1, 2, 4, 7):
            self.open(number)

    @rule(number=NUMBERS)
    def opening(self, number: int) -> None:
        self.open(number)

    def open(self, number: int) -> None:
        flow = self.oracle.open(*keys(number), self.now)
        opened = {table.open(*keys(number), self.now) for table in self.tables}
        assert len(opened) == 1
        assert (opened == {None}) == (flow is None)
        if flow is not None:
            self.numbers[opened.pop() or 0] = flow

    @rule(number=NUMBERS, way=st.integers(0, 1), size=st.integers(0, 1500))
    def datagram(self, number: int, way: int, size: int) -> None:
        half = self.tables[0].find(keys(number)[way])
        flow = self.oracle.find(keys(number)[way])
        if half is None or flow is None or flow.protocol == TCP:
            return
        flow.ways[half % 2].last_seen = self.now
        flow.ways[half % 2].packets += 1
        for table in self.tables:
            table.seen(half, self.now, size)

    @rule(
        pick=st.integers(0, LIMIT - 1),
        way=st.integers(0, 1),
        flags=FLAGS,
        offsets=st.tuples(OFFSETS, OFFSETS),
        size=st.sampled_from([0, 0, 1, 40]),
        scale=st.sampled_from([None, 0, 3]),
    )
    def tcp(
        self, pick: int, way: int, flags: int, offsets: tuple[int, int], size: int, scale: int | None
    ) -> None:
        known = self.connection(pick)
        if known is not None:
            self.send(known, way, flags, offsets, size, scale)

    @rule(pick=st.integers(0, LIMIT - 1), scale=st.sampled_from([None, 3]), fins=st.integers(0, 2))
    def handshake(self, pick: int, scale: int | None, fins: int) -> None:
        known = self.connection(pick)
        if known is None:
            return
        for way, flags in ((0, SYN), (1, SYN | ACK), (0, ACK)):
            self.send(known, way, flags, (0, 0), 0, scale)
        for way in range(fins):
            self.send(known, way, FIN | ACK, (0, 0), 0, scale)

    def connection(self, pick: int) -> int | None:
        """One of the TCP flows there are."""
        known = sorted(number for number, flow in self.numbers.items() if flow.protocol == TCP)
        return known[pick % len(known)] if known else None

    def send(
        self, number: int, way: int, flags: int, offsets: tuple[int, int], size: int, scale: int | None
    ) -> None:
        """A segment with numbers *offsets* away from those that the other end expects."""
        flow = self.numbers[number]
        mine, other = flow.ways[way], flow.ways[1 - way]
        seq = START if other.acknowledged is None else other.acknowledged
        ack = mine.acknowledged
        if ack is None:
            ack = other.syn[0] + 1 if other.syn else START
        sent = Segment(
            flags,
            (seq + offsets[0]) % (1 << 32),
            (ack + offsets[1]) % (1 << 32),
            window=50,
            size=size,
            scale=scale if flags & SYN else None,
        )
        passed = self.oracle.track(flow, mine, sent, self.now)
        packed = segment(sent.flags, sent.seq, sent.ack, window=50, size=size, scale=sent.scale)
        expected = Verdict.VERDICT_FORWARD if passed else Verdict.DROP_TCP_STATE
        assert {table.track(2 * number + way, packed, self.now) for table in self.tables} == {expected}

    @rule(number=NUMBERS)
    def close(self, number: int) -> None:
        half = self.tables[0].find(keys(number)[0])
        if half is None:
            return
        self.oracle.flows.remove(self.numbers.pop(half // 2))
        for table in self.tables:
            table.close(half // 2)

    @rule(seconds=st.sampled_from([1, 3, 6, 23, 24, 29, 200, 9000]), budget=st.integers(1, 3))
    def expire(self, seconds: int, budget: int) -> None:
        self.now += seconds
        gone = self.oracle.expire(self.now)
        for table in self.tables:
            before = len(table.gone)
            while table.behind(self.now):
                assert table.expire(self.now, budget) <= budget
            assert {id(self.numbers[flow]) for flow in table.gone[before:]} == {id(flow) for flow in gone}
        self.numbers = {number: flow for number, flow in self.numbers.items() if flow not in gone}

    @invariant()
    def every_key_leads_to_its_flow(self) -> None:
        for number in range(10):
            for key in keys(number):
                flow = self.oracle.find(key)
                expected = [
                    2 * known + (its is flow.reply)
                    for known, its_flow in self.numbers.items()
                    if its_flow is flow
                    for its in flow.ways
                    if its.key == key
                ]
                for table in self.tables:
                    assert [table.find(key)] == (expected or [None])

    @invariant()
    def states_and_lives_are_the_same(self) -> None:
        for table in self.tables:
            assert sorted(table.flows(2)) == sorted(self.numbers)
            for number, flow in self.numbers.items():
                assert table.expires(number) == self.oracle.last_seen(flow) + self.oracle.timeout(flow) + 1
                assert table.counters(2 * number)[0] == flow.original.packets
                if flow.protocol == TCP:
                    assert table.state(number) == flow.state


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
