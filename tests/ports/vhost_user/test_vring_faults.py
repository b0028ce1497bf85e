"""Rings that no driver makes: each ends the port, with the reason, and nothing is read or written elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.vring import RingFault
from tests.ports.vhost_user.guest import PLAIN, RAM_BYTES, RING_SIZE, USUAL, Guest, frame, guest
from tests.support.virtqueue import DESCRIPTOR, INDIRECT, NEXT, WRITE

CHAIN_MAX = 1024
TABLE_BYTES = 16


def table(one: Guest, *entries: tuple[int, int, int, int]) -> int:
    """The address of a table with these descriptors."""
    return one.place(b"".join(DESCRIPTOR.pack(*each) for each in entries))[0]


def loop_of_one(one: Guest) -> int:
    one.rings[1].put(5, one.room, 64, NEXT, 5)
    return 5


def loop_of_two(one: Guest) -> int:
    one.rings[1].put(5, one.room, 64, NEXT, 6)
    one.rings[1].put(6, one.room, 64, NEXT, 5)
    return 5


def next_past_the_ring(one: Guest) -> int:
    one.rings[1].put(9, one.room, 64, NEXT, RING_SIZE)
    return 9


def address_behind_memory(one: Guest) -> int:
    one.rings[1].put(9, one.ram.gpa + RAM_BYTES - 63, 64)
    return 9


def address_wraps(one: Guest) -> int:
    one.rings[1].put(9, (1 << 64) - 32, 64)
    return 9


def empty_with_garbage(one: Guest) -> int:
    one.rings[1].put(9, 0xDEAD_BEEF_0000, 0)
    return 9


def empty_in_memory(one: Guest) -> int:
    one.rings[1].put(9, one.room, 0)
    return 9


def nested(one: Guest) -> int:
    inner = table(one, (one.room, 64, 0, 0))
    one.rings[1].put(9, table(one, (inner, TABLE_BYTES, INDIRECT, 0)), TABLE_BYTES, INDIRECT)
    return 9


def empty_table(one: Guest) -> int:
    one.rings[1].put(9, table(one), 0, INDIRECT)
    return 9


def crooked_table(one: Guest) -> int:
    one.rings[1].put(9, table(one, (one.room, 64, 0, 0)), TABLE_BYTES + 1, INDIRECT)
    return 9


def long_table(one: Guest) -> int:
    one.rings[1].put(9, one.place((CHAIN_MAX + 1) * TABLE_BYTES)[0], (CHAIN_MAX + 1) * TABLE_BYTES, INDIRECT)
    return 9


def table_and_next(one: Guest) -> int:
    one.rings[1].put(9, table(one, (one.room, 64, 0, 0)), TABLE_BYTES, INDIRECT | NEXT, 10)
    return 9


def table_behind_memory(one: Guest) -> int:
    one.rings[1].put(9, one.ram.gpa + RAM_BYTES - 8, TABLE_BYTES, INDIRECT)
    return 9


def next_past_the_table(one: Guest) -> int:
    one.rings[1].put(9, table(one, (one.room, 64, NEXT, 2), (one.room, 64, 0, 0)), 2 * TABLE_BYTES, INDIRECT)
    return 9


def loop_in_the_table(one: Guest) -> int:
    one.rings[1].put(9, table(one, (one.room, 64, NEXT, 0)), TABLE_BYTES, INDIRECT)
    return 9


def readable_behind_writable(one: Guest) -> int:
    one.rings[1].put(9, one.room, 64, NEXT | WRITE, 10)
    one.rings[1].put(10, one.room, 64)
    return 9


def writable_from_the_guest(one: Guest) -> int:
    return one.rings[1].chain(readable=[one.place(80)], writable=[one.place(64)])


FAULTS: list[tuple[str, Callable[[Guest], int], RingFault]] = [
    ("v1", loop_of_one, RingFault.FAULT_LOOP),
    ("v1", loop_of_two, RingFault.FAULT_LOOP),
    ("v2", next_past_the_ring, RingFault.FAULT_NEXT),
    ("v3", lambda _: RING_SIZE, RingFault.FAULT_HEAD),
    ("v3", lambda _: 0xFFFF, RingFault.FAULT_HEAD),
    ("v5", address_behind_memory, RingFault.FAULT_ADDRESS),
    ("v6", address_wraps, RingFault.FAULT_ADDRESS),
    ("v8", empty_with_garbage, RingFault.FAULT_ADDRESS),
    ("v8", empty_in_memory, RingFault.FAULT_EMPTY),
    ("v10", nested, RingFault.FAULT_NESTED),
    ("v11", empty_table, RingFault.FAULT_TABLE),
    ("v11", crooked_table, RingFault.FAULT_TABLE),
    ("v11", long_table, RingFault.FAULT_TABLE),
    ("v12", table_and_next, RingFault.FAULT_INDIRECT_NEXT),
    ("v13", table_behind_memory, RingFault.FAULT_ADDRESS),
    ("v10", next_past_the_table, RingFault.FAULT_NEXT),
    ("v10", loop_in_the_table, RingFault.FAULT_LOOP),
    ("v14", readable_behind_writable, RingFault.FAULT_ORDER),
    ("v15", writable_from_the_guest, RingFault.FAULT_DIRECTION),
]


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        pytest.param(make, fault, id=f"{row}-{make.__name__}-{i}")
        for i, (row, make, fault) in enumerate(FAULTS)
    ],
)
def test_v1_to_v15_chain_that_no_driver_makes_costs_the_guest_its_port(
    make: Callable[[Guest], int], fault: RingFault
) -> None:
    with guest() as one:
        one.transmit(frame(60, 1))
        one.rings[1].offer(make(one))
        one.transmit(frame(60, 2))
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, 1)], (
            "what was good before still counts"
        )
        assert one.fault == fault
        assert one.rings[1].finished() == [(0, 0)]
        assert one.worker.receive() == []
        assert not one.worker.is_up


def test_v4_chain_as_long_as_the_ring_is_taken_and_a_longer_one_ends_the_port() -> None:
    with guest() as one:
        body = frame(600)
        one.transmit(body, cuts=tuple(range(1, RING_SIZE)))
        assert [found for _, found, _ in one.worker.receive()] == [body]
        for place in range(RING_SIZE):
            one.rings[1].put(place, one.room, 64, NEXT, (place + 1) % RING_SIZE)
        one.rings[1].offer(0)
        assert one.worker.receive() == []
        assert one.fault == RingFault.FAULT_LOOP


@pytest.mark.parametrize("ahead", [1, CHAIN_MAX // 2, CHAIN_MAX - 1])
def test_v4_buffers_ahead_of_a_table_count_among_those_of_the_chain(ahead: int) -> None:
    with guest(size=2 * CHAIN_MAX) as one:
        table = one.place(CHAIN_MAX * TABLE_BYTES)[0]
        byte = one.place(b"\0")

        def offer(in_table: int) -> None:
            one.rings[1].indirect(table, [byte] * in_table)
            one.rings[1].free = 0
            for place in range(ahead):
                one.rings[1].put(place, *byte, NEXT, place + 1)
            one.rings[1].put(ahead, table, in_table * TABLE_BYTES, INDIRECT)
            one.rings[1].offer(0)

        offer(CHAIN_MAX - ahead)
        assert [len(body) for _, body, _ in one.worker.receive()] == [CHAIN_MAX - len(PLAIN)]
        offer(CHAIN_MAX - ahead + 1)
        assert one.worker.receive() == []
        assert one.fault == RingFault.FAULT_LOOP


def test_v9_chain_of_4_gib_ends_the_port() -> None:
    with guest(size=2048) as one:
        for place in range(CHAIN_MAX + 1):
            one.rings[1].put(place, one.ram.gpa, RAM_BYTES, NEXT, place + 1)
        one.rings[1].put(CHAIN_MAX - 2, one.ram.gpa, RAM_BYTES)
        one.rings[1].offer(0)
        assert one.worker.receive() == []
        assert one.fault is None
        assert sum(one.drops.values()) == 1
        one.rings[1].put(CHAIN_MAX - 2, one.ram.gpa, RAM_BYTES, NEXT, CHAIN_MAX - 1)
        one.rings[1].put(CHAIN_MAX - 1, one.ram.gpa, RAM_BYTES)
        one.rings[1].offer(0)
        assert one.worker.receive() == []
        assert one.fault == RingFault.FAULT_BYTES


def test_v11_longest_table_is_taken() -> None:
    with guest() as one:
        whole = PLAIN + frame(2 * CHAIN_MAX - 12)
        parts = [one.place(whole[i : i + 2]) for i in range(0, len(whole), 2)]
        one.rings[1].offer(one.rings[1].indirect(one.place(CHAIN_MAX * TABLE_BYTES)[0], parts))
        assert [body for _, body, _ in one.worker.receive()] == [whole[12:]]


def test_v11_table_that_was_not_negotiated_ends_the_port() -> None:
    with guest(USUAL & ~Feature.INDIRECT_DESC) as one:
        one.rings[1].offer(one.rings[1].indirect(one.place(64)[0], [one.place(PLAIN + frame())]))
        assert one.worker.receive() == []
        assert one.fault == RingFault.FAULT_TABLE


def test_v15_buffer_to_read_on_a_receive_ring_ends_the_port() -> None:
    with guest() as one:
        one.rings[0].offer(one.rings[0].chain(readable=[one.place(2048)]))
        one.worker.send([(PLAIN, frame())])
        assert one.fault == RingFault.FAULT_DIRECTION
        assert one.worker.sent == (0, 0)


@pytest.mark.parametrize("ahead", [RING_SIZE + 1, 0x8000, 0xFFFF])
def test_v18_index_that_runs_away_or_goes_back_ends_the_port(ahead: int) -> None:
    with guest() as one:
        one.rings[1].set_index(ahead)
        assert one.worker.receive() == []
        assert one.fault == RingFault.FAULT_AVAILABLE


def test_v18_full_ring_is_taken() -> None:
    with guest() as one:
        for number in range(RING_SIZE):
            one.transmit(frame(60, number))
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, n) for n in range(RING_SIZE)]


def test_v18_indexes_go_round_at_65536() -> None:
    with guest(start=False) as one:
        one.tell_features()
        one.map()
        ring = one.rings[1]
        ring.index = ring.seen = 0xFFFE
        one.start(1, base=0xFFFE)
        ring.set_index(0xFFFE)
        for number in range(4):
            one.transmit(frame(60, number))
        assert [body for _, body, _ in one.worker.receive()] == [frame(60, n) for n in range(4)]
        assert (ring.used_index, len(ring.finished())) == (2, 4)
        assert one.stop(1) == 2


def test_v19_head_that_is_offered_twice_is_served_and_used_twice() -> None:
    with guest() as one:
        head = one.transmit(frame())
        one.rings[1].offer(head)
        assert len(one.worker.receive()) == 2
        assert one.rings[1].finished() == [(head, 0)] * 2


def test_v20_what_the_guest_writes_into_the_used_ring_is_not_read() -> None:
    with guest() as one:
        one.transmit(frame())
        one.worker.receive()
        one.ram.write(one.rings[1].used, b"\xff" * (6 + 8 * RING_SIZE))
        one.rings[1].seen = 1
        one.transmit(frame())
        assert len(one.worker.receive()) == 1
        assert one.rings[1].used_index == 2
        assert one.rings[1].finished() == [(1, 0)]
