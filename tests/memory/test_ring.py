from __future__ import annotations

import select
import threading
from array import array

import pytest

from arcbox_net.errors import ConfigError, RingMisused
from arcbox_net.memory import _testing
from arcbox_net.memory.ring import CAPACITY_MAX, LockFreeRing

DEADLINE_S = 30.0
needs_debug = pytest.mark.skipif(not _testing.DEBUG, reason="only a debug build finds this (make asan)")


def item(number: int, size: int = 8) -> bytes:
    return number.to_bytes(size, "little")


@pytest.mark.parametrize("capacity", [-8, 0, 1, 3, 1000, CAPACITY_MAX - 1, CAPACITY_MAX * 2])
def test_capacity_is_a_power_of_two_within_limits(capacity: int) -> None:
    with pytest.raises(ConfigError):
        LockFreeRing(capacity)


@pytest.mark.parametrize("capacity", [2, CAPACITY_MAX])
def test_limits_of_capacity_can_be_had(capacity: int) -> None:
    assert LockFreeRing(capacity).capacity == capacity


@pytest.mark.parametrize("size", [0, 4, 12, 24, 128])
def test_item_size_is_checked(size: int) -> None:
    with pytest.raises(ConfigError):
        LockFreeRing(8, size)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("capacity", [2, 8])
def test_ring_holds_its_capacity_and_refuses_one_more(capacity: int, size: int) -> None:
    ring = LockFreeRing(capacity, size)
    items = [item(number, size) for number in range(capacity)]
    assert [ring.push(each) for each in items] == [True] * capacity
    assert ring.push(item(99, size)) is False
    assert len(ring) == capacity
    assert [ring.pop() for _ in items] == items
    assert ring.pop() is None


def test_batch_goes_in_as_far_as_there_is_room_and_around_the_end() -> None:
    ring = LockFreeRing(8)
    out = bytearray(8 * 8)
    ring.push_batch(b"".join(map(item, range(5))))
    assert ring.pop_batch(out) == 5
    assert ring.push_batch(b"".join(map(item, range(10)))) == 8
    assert ring.pop_batch(out) == 8
    assert out == b"".join(map(item, range(8)))
    assert (ring.push_batch(b""), ring.pop_batch(bytearray())) == (0, 0)


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_item_of_another_size_is_refused(size: int) -> None:
    ring = LockFreeRing(8)
    with pytest.raises(ConfigError):
        ring.push(bytes(size))


def test_batch_of_broken_items_is_refused() -> None:
    ring = LockFreeRing(8)
    with pytest.raises(ConfigError):
        ring.push_batch(bytes(12))
    with pytest.raises(ConfigError):
        ring.pop_batch(bytearray(12))


def test_span_ends_where_the_ring_does_and_where_it_is_full() -> None:
    ring = LockFreeRing(8)
    for count, length in ((6, 6), (4, 2), (4, 0)):
        span = ring.reserve(count)
        assert len(span) == 8 * length
        span[:] = b"%d" % length * len(span)
        ring.commit(length)
    assert bytes(ring.peek(9)) == b"6" * 48 + b"2" * 16
    ring.release(5)
    assert bytes(ring.peek(9)) == b"6" * 8 + b"2" * 16
    assert len(ring.reserve(9)) == 8 * 5
    assert len(ring) == 3


def test_span_is_handed_over_once_and_not_beyond_its_end() -> None:
    ring = LockFreeRing(8)
    ring.reserve(3)
    with pytest.raises(ConfigError):
        ring.commit(4)
    ring.commit(2)
    with pytest.raises(ConfigError):
        ring.commit(1)
    ring.peek(3)
    with pytest.raises(ConfigError):
        ring.release(3)
    ring.release(2)
    with pytest.raises(ConfigError):
        ring.release(1)


def test_items_are_not_written_to_through_a_peek_and_outlive_the_ring_object() -> None:
    ring = LockFreeRing(8)
    ring.push(b"12345678")
    span = ring.peek(1)
    del ring
    assert span.readonly
    assert bytes(span) == b"12345678"


def test_eventfd_is_signalled_once_and_only_if_armed() -> None:
    ring = LockFreeRing(8)
    poll = select.poll()
    poll.register(ring, select.POLLIN)
    ring.push(item(0))
    assert poll.poll(0) == []
    assert ring.arm() is False
    ring.pop()
    assert ring.arm() is True
    ring.push(item(1))
    assert len(poll.poll(0)) == 1
    ring.pop()
    assert ring.arm() is True
    assert poll.poll(0) == []


def test_wait_ends_without_items_at_its_time_and_at_once_with_them() -> None:
    ring = LockFreeRing(8)
    assert ring.wait(0) is False
    assert ring.wait(0.001) is False
    ring.push(item(0))
    assert ring.wait(0) is True
    assert ring.wait() is True


def test_wait_lets_other_threads_run_and_ends_with_the_first_item() -> None:
    ring = LockFreeRing(8)
    found: list[bool] = []
    sleeper = threading.Thread(target=lambda: found.append(ring.wait(DEADLINE_S)))
    sleeper.start()
    ring.push(item(0))
    sleeper.join()
    assert found == [True]


@pytest.mark.parametrize("burst", [1, 3, 32, 64])
def test_two_threads_without_the_gil_move_every_item_in_order(burst: int) -> None:
    ring = LockFreeRing(256)
    count = 100_000 if _testing.DEBUG else 250_000
    found: list[tuple[int, int]] = []
    consumer = threading.Thread(target=lambda: found.append(_testing.consume(ring, count, burst)))
    consumer.start()
    assert _testing.produce(ring, count, burst) == count
    consumer.join()
    assert found == [(count, 0)]


def test_two_python_threads_move_a_million_items() -> None:
    ring = LockFreeRing(65_536)
    numbers = array("Q", range(1_000_000))
    found = array("Q")

    def take() -> None:
        out = array("Q", bytes(8 * 512))
        while len(found) < len(numbers) and ring.wait(DEADLINE_S):
            found.extend(out[: ring.pop_batch(memoryview(out).cast("B"))])

    consumer = threading.Thread(target=take)
    consumer.start()
    rest = memoryview(numbers).cast("B")
    while rest and consumer.is_alive():
        rest = rest[8 * ring.push_batch(rest) :]
    consumer.join()
    assert found == numbers


@needs_debug
@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_second_thread_on_a_side_is_refused(role: str) -> None:
    ring = LockFreeRing(8)
    use = (lambda: ring.push(item(1))) if role == "producer" else ring.pop
    use()
    caught: list[RingMisused] = []

    def intrude() -> None:
        try:
            use()
        except RingMisused as error:
            caught.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert [error.role for error in caught] == [role]
    assert caught[0].owner == threading.get_native_id()
    use()


@needs_debug
def test_side_of_a_thread_that_ended_or_handed_over_is_free() -> None:
    ring = LockFreeRing(8)
    for _ in range(2):
        thread = threading.Thread(target=ring.push, args=(item(1),))
        thread.start()
        thread.join()
    ring.push(item(2))
    ring.hand_over()
    thread = threading.Thread(target=ring.push, args=(item(3),))
    thread.start()
    thread.join()
    assert len(ring) == 4
