"""How much memory fragments take, and who gives way to whom."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from arcbox_net.dataplane._testing_fragments import LIMITS, Stages
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.dataplane.test_reassembly import GUEST, HELD, TIMEOUT_NS, WHOLE, cut, part, take

OTHER = "192.168.64.10"
OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND


def first(id: int, *, src: str = GUEST, size: int = 800) -> bytes:
    return part(0, bytes(size), more=True, id=id % 65536, src=src)


def last(id: int, *, src: str = GUEST, size: int = 800) -> bytes:
    return part(size, bytes(8), more=False, id=id % 65536, src=src)


@pytest.mark.parametrize("direction", [OUTBOUND, INBOUND])
def test_f10_the_65th_datagram_of_one_sender_costs_it_the_oldest(direction: int) -> None:
    s = Stages()
    limit = LIMITS["datagrams_owner"]
    assert limit == 64
    assert take(s, [first(n) for n in range(limit)], direction) == [HELD] * limit
    assert s.counts()["evicted"] == 0
    assert take(s, [first(limit)], direction) == [HELD]
    assert s.counts() | {"blocks": 0} == s.counts() | {"evicted": 1, "datagrams": limit, "blocks": 0}
    assert take(s, [last(n) for n in range(1, limit + 1)], direction) == [WHOLE] * limit
    assert take(s, [last(0)], direction) == [HELD]


def test_f10_one_block_more_than_a_mebibyte_costs_the_sender_its_oldest() -> None:
    s = Stages()
    limit = LIMITS["blocks_owner"]
    assert limit * LIMITS["block_bytes"] <= 1 << 20 < (limit + 1) * LIMITS["block_bytes"]
    per_datagram = 16
    for n in range(limit):
        take(s, [part(n % per_datagram * 8, bytes(8), more=True, id=n // per_datagram, proto=99)])
    assert (s.counts()["blocks"], s.counts()["evicted"]) == (limit, 0)
    take(s, [part(4096, bytes(8), more=True, id=limit // per_datagram, proto=99)])
    assert (s.counts()["blocks"], s.counts()["evicted"]) == (limit + 1 - per_datagram, 1)


def test_f10_room_for_a_large_fragment_is_made_by_as_many_datagrams_as_it_takes() -> None:
    s = Stages()
    for n in range(60):
        take(s, [first(n, size=17000)])
    large = LIMITS["blocks_owner"]
    assert large - 12 < s.counts()["blocks"] <= large
    parts = cut(60000, at=59992, id=1000)
    assert take(s, parts) == [HELD, WHOLE]
    assert s.counts()["evicted"] > 3


def guests() -> list[str]:
    return [f"192.168.{n // 200}.{n % 200 + 2}" for n in range(LIMITS["datagrams_share"])]


def test_n24_one_guest_at_its_limit_costs_no_other_guest_a_datagram() -> None:
    s = Stages()
    ids = count()
    for _ in range(1000):
        take(s, [first(next(ids))])
        mine = next(ids)
        assert take(s, [first(mine, src=OTHER), last(mine, src=OTHER)]) == [HELD, WHOLE]
    take(s, [first(70000, src=OTHER)])
    take(s, [first(next(ids)) for _ in range(1000)])
    assert take(s, [last(70000, src=OTHER)]) == [WHOLE]


def test_all_guests_together_have_half_of_the_store() -> None:
    s = Stages()
    take(s, [first(1, src=guest) for guest in guests()])
    assert s.counts()["evicted"] == 0
    take(s, [first(1, src="10.0.0.1")])
    assert (s.counts()["evicted"], s.counts()["datagrams"]) == (1, LIMITS["datagrams_share"])
    assert take(s, [last(1, src=guests()[1]), last(1, src=guests()[0])]) == [WHOLE, HELD]


def test_nothing_from_outside_takes_memory_from_guests() -> None:
    s = Stages()
    take(s, [first(1, src=guest) for guest in guests()])
    sources = (f"198.18.{n // 200}.{n % 200}" for n in range(5000))
    take(s, [first(9, src=source, size=9000) for source in sources], INBOUND)
    assert take(s, [last(1, src=guest) for guest in guests()]) == [WHOLE] * len(guests())


def test_n14_a_hundred_thousand_fragments_without_end_keep_within_bounds() -> None:
    s = Stages()
    frame = bytearray(first(0, size=1480))
    for n in range(100_000):
        frame[4:6] = (n % 65536).to_bytes(2)
        frame[14:16] = (n // 65536 * 7 + n % 13).to_bytes(2)
        assert s.take(bytes(frame), n % 2)[0] == HELD
    held = s.counts()
    assert held["datagrams"] <= LIMITS["datagrams_max"]
    assert held["blocks"] <= LIMITS["blocks_max"]
    assert take(s, cut(4000, src=OTHER))[-1] == WHOLE
    while s.expire(TIMEOUT_NS + 1, 100):
        s.emitted()
    assert s.counts()["datagrams"] == s.counts()["blocks"] == 0


def test_blocks_of_a_share_are_all_used_and_never_more() -> None:
    s = Stages()
    sources = [f"10.1.{n // 200}.{n % 200 + 2}" for n in range(400)]
    highest = 0
    for n in range(4000):
        size = (8, 9000, 30000, 60000)[n % 4]
        take(s, [first(n, src=sources[n % 400], size=size)])
        highest = max(highest, s.counts()["blocks"])
    assert LIMITS["blocks_share"] - 40 <= highest <= LIMITS["blocks_share"]


class Store(RuleBasedStateMachine):
    """Whatever comes in whatever order: limits hold, and what is held is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = Stages()
        self.now_ns = 0

    @rule(
        guest=st.integers(2, 12), id=st.integers(0, 90), at=st.integers(0, 3), size=st.sampled_from([8, 1480, 65000]),
        direction=st.sampled_from([OUTBOUND, INBOUND]), more=st.booleans(), times=st.integers(1, 90),
    )  # fmt: skip
    def fragments(
        self, guest: int, id: int, at: int, size: int, direction: int, more: bool, times: int
    ) -> None:
        for n in range(times):
            frame = part(
                at * 1480 if size < 65000 else 0, bytes(size), more=more, id=(id + n) % 91, proto=99,
                src=f"192.168.64.{guest}",
            )  # fmt: skip
            assert self.stages.take(frame, direction, self.now_ns)[0] in set(Verdict)

    @rule(seconds=st.integers(1, 40), budget=st.integers(1, 200))
    def time_goes_by(self, seconds: int, budget: int) -> None:
        self.now_ns += seconds * 10**9
        self.stages.expire(self.now_ns, budget)
        self.stages.emitted()

    @invariant()
    def limits_hold(self) -> None:
        held = self.stages.counts()
        assert held["datagrams"] <= LIMITS["datagrams_max"]
        assert held["blocks"] <= LIMITS["blocks_max"]

    def teardown(self) -> None:
        self.stages.expire(self.now_ns + TIMEOUT_NS + 1)
        assert self.stages.counts()["datagrams"] == self.stages.counts()["blocks"] == 0


TestStore = Store.TestCase
TestStore.settings = settings(max_examples=10, stateful_step_count=20)
