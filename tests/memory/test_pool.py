from __future__ import annotations

import itertools
import mmap
import os
import threading

import pytest

from arcbox_net.errors import BuffersExhausted, ConfigError, LimitReached, PoolUnbalanced
from arcbox_net.memory import _testing
from arcbox_net.memory.batch import FrameBatch
from arcbox_net.memory.pool import PacketPool, PoolCache
from arcbox_net.memory.ring import LockFreeRing

SMALL, LARGE = 0, 1
POOL_BUFFERS_MAX = 1 << 20
CACHES_MAX = 64
needs_debug = pytest.mark.skipif(not _testing.DEBUG, reason="only a debug build finds this (make asan)")


@pytest.mark.parametrize("size_class", [SMALL, LARGE])
@pytest.mark.parametrize("count", [1, 2, 7, 64, 65, 200])
def test_every_buffer_can_be_held_and_one_more_is_counted(size_class: int, count: int) -> None:
    pool = PacketPool(count, count)
    name = ("small", "large")[size_class]
    assert _testing.hold(PoolCache(pool), size_class, count + 1) == count
    assert pool.stats()[name] == {"buffers": count, "held": count, "exhausted": 1}


def test_failed_acquire_of_python_code_is_an_error_and_takes_nothing() -> None:
    pool = PacketPool(4, 0)
    with FrameBatch(pool) as batch:
        batch.acquire(3)
        with pytest.raises(BuffersExhausted) as caught:
            batch.acquire(2)
        assert caught.value.facts == {"size_class": "small", "buffers": 4}
        assert pool.stats()["small"] == {"buffers": 4, "held": 3, "exhausted": 1}
        batch.acquire(1)
    assert pool.stats()["small"]["held"] == 0


@pytest.mark.parametrize(
    "counts", [(-1, 4), (4, -1), (POOL_BUFFERS_MAX + 1, 0), (0, POOL_BUFFERS_MAX + 1), (0, 0)]
)
def test_number_of_buffers_is_checked(counts: tuple[int, int]) -> None:
    with pytest.raises(ConfigError):
        PacketPool(*counts)


def test_largest_number_of_small_buffers_is_possible() -> None:
    # Nothing is touched, so it takes no memory but that of the bookkeeping.
    assert PacketPool(POOL_BUFFERS_MAX, 0).stats()["small"]["buffers"] == POOL_BUFFERS_MAX


def test_caches_of_a_pool_are_limited() -> None:
    pool = PacketPool(8, 0)
    caches = [PoolCache(pool) for _ in range(CACHES_MAX - 1)]  # the pool has one itself
    with pytest.raises(LimitReached):
        PoolCache(pool)
    caches.pop()
    PoolCache(pool)


def test_buffers_of_a_cache_that_ends_are_there_for_others() -> None:
    pool = PacketPool(200, 0)
    _testing.churn(PoolCache(pool), SMALL, 10, 64)
    assert _testing.hold(PoolCache(pool), SMALL, 200) == 200


def test_count_of_failures_outlives_the_cache() -> None:
    pool = PacketPool(4, 0)
    _testing.hold(PoolCache(pool), SMALL, 5)
    assert pool.stats()["small"]["exhausted"] == 1


def test_cache_keeps_few_buffers_from_the_others() -> None:
    pool = PacketPool(64, 0)
    idle = PoolCache(pool)
    _testing.churn(idle, SMALL, 10, 64)
    assert _testing.hold(PoolCache(pool), SMALL, 64) >= 48


def test_two_threads_pass_a_million_buffers() -> None:
    pool, ring = PacketPool(512, 0), LockFreeRing(256)
    count = 100_000 if _testing.DEBUG else 1_000_000
    found: list[tuple[int, int]] = []
    taker = threading.Thread(target=lambda: found.append(_testing.take_buffers(PoolCache(pool), ring, count)))
    taker.start()
    assert _testing.send_buffers(PoolCache(pool), ring, count) == count
    taker.join()
    assert found == [(count, 0)]
    pool.close()


def test_closing_reports_what_is_held() -> None:
    pool = PacketPool(8, 8)
    batch = FrameBatch(pool)
    batch.append(b"x")
    batch.append(bytes(5000))
    with pytest.raises(PoolUnbalanced) as caught:
        pool.close()
    assert caught.value.held == 2
    batch.clear()
    pool.close()
    with pytest.raises(ConfigError):
        batch.acquire(1)


def test_error_in_a_block_is_not_hidden_by_what_it_left_behind() -> None:
    with pytest.raises(ZeroDivisionError), PacketPool(8, 0) as pool:
        batch = FrameBatch(pool)
        batch.append(b"x")
        raise ZeroDivisionError


def test_release_of_what_is_no_buffer_is_counted() -> None:
    pool = PacketPool(8, 0)
    _testing.release_foreign(PoolCache(pool))
    with pytest.raises(PoolUnbalanced) as caught:
        pool.close()
    assert caught.value.foreign_releases == 1


@needs_debug
def test_second_release_is_counted_and_gives_no_buffer_twice() -> None:
    pool = PacketPool(8, 0)
    cache = PoolCache(pool)
    _testing.release_twice(cache)
    assert pool.stats()["double_releases"] == 1
    assert _testing.hold(cache, SMALL, 9) == 8


@needs_debug
@pytest.mark.parametrize("place", [-128, -12, 0, 2047])
def test_write_after_release_is_counted(place: int) -> None:
    pool = PacketPool(8, 0)
    _testing.write_after_release(PoolCache(pool), place)
    assert pool.stats()["overwritten"] == 1


@needs_debug
def test_released_frame_is_poisoned() -> None:
    pool = PacketPool(8, 0)
    memory = mmap.mmap(pool.fd, pool.size)
    with FrameBatch(pool) as batch:
        batch.append(b"secret")
        place = batch.offset(0)
        assert memory[place : place + 6] == b"secret"
    assert memory[place : place + 6] == b"\xa5" * 6


def test_released_buffer_is_acquired_next() -> None:
    pool = PacketPool(200, 0)
    with FrameBatch(pool) as batch:
        batch.acquire(3)
        places = [batch.offset(i) for i in range(3)]
    batch.acquire(3)
    assert [batch.offset(i) for i in range(3)] == places[::-1]
    batch.clear()


def test_frames_begin_at_a_cache_line_with_their_room_ahead() -> None:
    pool = PacketPool(64, 64)
    with FrameBatch(pool) as batch:
        batch.acquire(32)
        batch.acquire(32, size=69_632)
        places = [batch.offset(i) for i in range(64)]
    assert all(place % 64 == 0 for place in places)
    assert all(after - before >= 2048 + 128 for before, after in itertools.pairwise(places))
    assert places[0] == 128


def test_other_mapping_sees_the_frames() -> None:
    pool = PacketPool(8, 0, touch=True, huge_pages=False)
    memory = mmap.mmap(pool.fd, pool.size)
    with FrameBatch(pool) as batch:
        batch.append(b"from here")
        place = batch.offset(0)
        memory[place : place + 4] = b"into"
        assert bytes(batch[0]) == b"into here"


def test_nobody_can_shorten_the_memory() -> None:
    pool = PacketPool(8, 0)
    for size in (0, pool.size * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(pool.fd, size)
