"""The ring beside a deque, and the pool beside a set: the same operations, the same answers."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from arcbox_net.errors import BuffersExhausted, LimitReached
from arcbox_net.memory.batch import BATCH_MAX, FrameBatch
from arcbox_net.memory.pool import PacketPool
from arcbox_net.memory.ring import LockFreeRing

COUNT = st.integers(0, 10)
SMALL_BYTES, LARGE_BYTES = 2048, 69_632


class RingModel(RuleBasedStateMachine):
    @initialize(capacity=st.sampled_from([2, 4, 8]), size=st.sampled_from([8, 16, 64]))
    def make(self, capacity: int, size: int) -> None:
        self.ring = LockFreeRing(capacity, size)
        self.model: deque[bytes] = deque()
        self.number = 0

    def new_items(self, count: int) -> list[bytes]:
        self.number += count
        return [n.to_bytes(self.ring.item_size, "big") for n in range(self.number - count, self.number)]

    @property
    def room(self) -> int:
        return self.ring.capacity - len(self.model)

    @rule()
    def push(self) -> None:
        items = self.new_items(1)
        assert self.ring.push(items[0]) is (self.room > 0)
        self.model.extend(items[: self.room])

    @rule(count=COUNT)
    def push_batch(self, count: int) -> None:
        items = self.new_items(count)
        accepted = self.ring.push_batch(b"".join(items))
        assert accepted == min(count, self.room)
        self.model.extend(items[:accepted])

    @rule(count=COUNT, less=COUNT)
    def reserve_and_commit(self, count: int, less: int) -> None:
        span = self.ring.reserve(count)
        slots = len(span) // self.ring.item_size
        assert slots <= min(count, self.room)
        assert slots > 0 or 0 in (count, self.room)
        items = self.new_items(max(0, slots - less))
        span[: len(items) * self.ring.item_size] = b"".join(items)
        self.ring.commit(len(items))
        self.model.extend(items)

    @rule()
    def pop(self) -> None:
        assert self.ring.pop() == (self.model.popleft() if self.model else None)

    @rule(count=COUNT)
    def pop_batch(self, count: int) -> None:
        out = bytearray(count * self.ring.item_size)
        found = self.ring.pop_batch(out)
        assert found == min(count, len(self.model))
        assert out[: found * self.ring.item_size] == b"".join(self.model.popleft() for _ in range(found))

    @rule(count=COUNT, less=COUNT)
    def peek_and_release(self, count: int, less: int) -> None:
        span = self.ring.peek(count)
        slots = len(span) // self.ring.item_size
        assert slots > 0 or 0 in (count, len(self.model))
        assert bytes(span) == b"".join(list(self.model)[:slots])
        for _ in range(max(0, slots - less)):
            self.model.popleft()
        self.ring.release(max(0, slots - less))

    @rule()
    def arm(self) -> None:
        assert self.ring.arm() is not bool(self.model)

    @invariant()
    def length_is_the_models(self) -> None:
        assert len(self.ring) == len(self.model)


class PoolModel(RuleBasedStateMachine):
    """Batches that hold buffers; `held` has the place of each held one."""

    batches = Bundle("batches")

    @initialize(small=st.integers(0, 150), large=st.integers(1, 9))
    def make(self, small: int, large: int) -> None:
        self.pool = PacketPool(small, large)
        self.counts = {"small": small, "large": large}
        self.held: dict[str, set[int]] = {"small": set(), "large": set()}
        self.exhausted = {"small": 0, "large": 0}

    @rule(target=batches)
    def new_batch(self) -> FrameBatch:
        return FrameBatch(self.pool)

    @rule(batch=batches, count=st.integers(0, BATCH_MAX + 1), name=st.sampled_from(["small", "large"]))
    def acquire(self, batch: FrameBatch, count: int, name: str) -> None:
        before = len(batch)
        size = SMALL_BYTES if name == "small" else LARGE_BYTES
        if before + count > BATCH_MAX:
            with pytest.raises(LimitReached):
                batch.acquire(count, size=size)
        elif count > self.counts[name] - len(self.held[name]):
            with pytest.raises(BuffersExhausted):
                batch.acquire(count, size=size)
            self.exhausted[name] += 1
        else:
            batch.acquire(count, size=size)
            taken = {batch.offset(i) for i in range(before, before + count)}
            assert len(taken) == count
            assert not taken & self.held[name], "a buffer that is held was acquired again"
            self.held[name] |= taken

    @rule(batch=consumes(batches))
    def clear(self, batch: FrameBatch) -> None:
        for i in range(len(batch)):
            name = "small" if batch.room(i) == SMALL_BYTES else "large"
            self.held[name].remove(batch.offset(i))
        batch.clear()

    @invariant()
    def pool_counts_as_the_model(self) -> None:
        stats = self.pool.stats()
        for name in ("small", "large"):
            assert stats[name]["held"] == len(self.held[name])
            assert stats[name]["exhausted"] == self.exhausted[name]
        assert (stats["foreign_releases"], stats["double_releases"], stats["overwritten"]) == (0, 0, 0)


TestRing = RingModel.TestCase
TestPool = PoolModel.TestCase
TestRing.settings = TestPool.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
