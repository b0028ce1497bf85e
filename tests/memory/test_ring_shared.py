"""The ring between processes: the same items, no lost wake-up, and a peer that lies."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.errors import ConfigError, KernelError, RingCorrupt
from arcbox_net.memory.ring import LockFreeRing

DEADLINE_S = 30.0
HEAD, TAIL, NEED_WAKE, SLOTS = 128, 256, 384, 512
HEADER = struct.Struct("=QIIQ")  # magic, version, item_size, capacity
U64_MAX = 2**64 - 1
needs_memfd = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="shared memory of any size, and any seals, is Linux's"
)


@contextlib.contextmanager
def peer(role: str, *rings: LockFreeRing) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the rings; `tests.memory.peer` says what each role does."""
    fds = [fd for ring in rings for fd in (ring.fd, ring.fileno(), ring.signal_fileno())]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.memory.peer", role, *map(str, fds)],
        pass_fds=fds,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_two_processes_move_a_million_items() -> None:
    ring = LockFreeRing(1024)
    numbers = array("Q", range(1_000_000))
    with peer("sum", ring) as process:
        rest = memoryview(numbers).cast("B")
        while rest and process.poll() is None:
            rest = rest[8 * ring.push_batch(rest) :]
        assert process.stdout is not None
        assert process.stdout.read().split() == [b"1000000", str(sum(numbers)).encode()]


def test_sleepers_in_two_processes_miss_no_wake_up() -> None:
    there, back = LockFreeRing(2), LockFreeRing(2)
    with peer("echo", there, back):
        for number in range(5000):
            there.push(number.to_bytes(8, "little"))
            assert back.wait(DEADLINE_S), f"nothing came back in round {number}"
            assert back.pop() == number.to_bytes(8, "little")
        there.push(b"\xff" * 8)


def ring_memory(magic: int, version: int, item_size: int, capacity: int, size: int) -> int:
    fd = os.memfd_create("ring", os.MFD_ALLOW_SEALING)
    os.write(fd, HEADER.pack(magic, version, item_size, capacity))
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd


MAGIC = int.from_bytes(b"abx-ring", "little")


@needs_memfd
@pytest.mark.parametrize(
    ("header", "size", "field"),
    [
        pytest.param((MAGIC, 1, 8, 8), SLOTS - 1, "size", id="no room for the header"),
        pytest.param((MAGIC, 1, 8, 8), SLOTS + 63, "size", id="no room for the last slot"),
        pytest.param((MAGIC + 1, 1, 8, 8), 4096, "magic", id="another magic"),
        pytest.param((MAGIC, 2, 8, 8), 4096, "version", id="a later version"),
        pytest.param((MAGIC, 1, 0, 8), 4096, "item_size", id="items of nothing"),
        pytest.param((MAGIC, 1, 12, 8), 4096, "item_size", id="items of 12 bytes"),
        pytest.param((MAGIC, 1, 8, 0), 4096, "capacity", id="capacity 0"),
        pytest.param((MAGIC, 1, 8, 9), 4096, "capacity", id="capacity 9"),
        pytest.param((MAGIC, 1, 8, 2**63), 4096, "capacity", id="capacity that wraps"),
        pytest.param((MAGIC, 1, 64, 2**24), 4096, "size", id="far more slots than memory"),
    ],
)
def test_memory_that_is_no_ring_is_refused(header: tuple[int, int, int, int], size: int, field: str) -> None:
    fd = ring_memory(*header, size)
    try:
        with pytest.raises(RingCorrupt) as caught:
            LockFreeRing.attach(fd, fd)
        assert caught.value.field == field
    finally:
        os.close(fd)


@needs_memfd
def test_smallest_memory_that_is_a_ring_is_accepted() -> None:
    fd, event_fd = ring_memory(MAGIC, 1, 8, 8, SLOTS + 64), os.eventfd(0)
    ring = LockFreeRing.attach(fd, event_fd)
    os.close(fd)
    os.close(event_fd)
    assert [ring.push(bytes(8)) for _ in range(9)] == [True] * 8 + [False]


@needs_memfd
def test_memory_that_can_shrink_is_refused() -> None:
    fd = os.memfd_create("ring")
    try:
        with pytest.raises(ConfigError):
            LockFreeRing.attach(fd, fd)
    finally:
        os.close(fd)


def test_descriptor_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError):
        LockFreeRing.attach(-1, -1)
    ring = LockFreeRing(2)
    with pytest.raises(KernelError):
        LockFreeRing.attach(ring.fd, -1)


def test_indexes_that_lie_are_refused_at_attach() -> None:
    ring = LockFreeRing(8)
    mmap.mmap(ring.fd, 0)[HEAD : HEAD + 8] = struct.pack("=Q", 9)
    with pytest.raises(RingCorrupt):
        LockFreeRing.attach(ring.fd, ring.fileno())


@pytest.mark.parametrize("lie", [9, 2**32, 2**63, U64_MAX])
def test_head_that_lies_ends_the_consumers_trust(lie: int) -> None:
    ring = LockFreeRing(8)
    mmap.mmap(ring.fd, 0)[HEAD : HEAD + 8] = struct.pack("=Q", lie)
    uses: list[Callable[[], object]] = [
        ring.pop,
        lambda: ring.pop_batch(bytearray(64)),
        lambda: ring.peek(1),
        ring.arm,
        lambda: len(ring),
    ]
    for use in uses:
        with pytest.raises(RingCorrupt) as caught:
            use()
        assert caught.value.value == lie
    assert ring.push(bytes(8))  # its own head is not in the shared memory


@pytest.mark.parametrize("lie", [1, 2**63, U64_MAX - 8])
def test_tail_that_lies_ends_the_producers_trust(lie: int) -> None:
    ring = LockFreeRing(8)
    for _ in range(8):
        ring.push(bytes(8))
    mmap.mmap(ring.fd, 0)[TAIL : TAIL + 8] = struct.pack("=Q", (8 + lie) & U64_MAX)
    for use in (lambda: ring.push(bytes(8)), lambda: ring.push_batch(bytes(64)), lambda: ring.reserve(1)):
        with pytest.raises(RingCorrupt) as caught:
            use()
        assert caught.value.field == "tail"
    assert ring.pop() == bytes(8)


INDEX = st.one_of(st.integers(0, 20), st.integers(U64_MAX - 20, U64_MAX), st.integers(0, U64_MAX))


@given(st.lists(st.tuples(st.sampled_from([HEAD, TAIL, NEED_WAKE]), INDEX, st.integers(0, 20)), max_size=30))
def test_whatever_the_peer_writes_no_call_goes_beyond_the_ring(steps: list[tuple[int, int, int]]) -> None:
    ring = LockFreeRing(8)
    memory = mmap.mmap(ring.fd, 0)
    out = bytearray(8 * 20)
    for place, lie, count in steps:
        memory[place : place + 8] = struct.pack("=Q", lie)
        for use in (ring.push_batch, ring.pop_batch):
            with contextlib.suppress(RingCorrupt):
                assert 0 <= use(memoryview(out)[: 8 * count]) <= 8
        with contextlib.suppress(RingCorrupt):
            assert len(ring.peek(count)) <= 64
            assert len(ring.reserve(count)) <= 64
