from __future__ import annotations

import gc

import pytest

from arcbox_net.errors import ConfigError, LimitReached
from arcbox_net.memory.batch import BATCH_MAX, FrameBatch
from arcbox_net.memory.pool import PacketPool

SMALL_BYTES, LARGE_BYTES = 2048, 69_632
VNET = bytes(range(12))


@pytest.fixture
def pool() -> PacketPool:
    return PacketPool(128, 4)


def test_frames_come_back_as_they_went_in(pool: PacketPool) -> None:
    frames = [bytes([i]) * (60 + i) for i in range(BATCH_MAX)]
    with FrameBatch(pool) as batch:
        for each in frames:
            batch.append(each)
        assert len(batch) == BATCH_MAX
        assert [bytes(view) for view in batch] == frames
        assert bytes(batch[-1]) == frames[-1]
    assert len(batch) == 0


@pytest.mark.parametrize("i", [1, -2])
def test_frame_beyond_the_last_is_an_index_error(pool: PacketPool, i: int) -> None:
    with FrameBatch(pool) as batch:
        batch.append(b"x")
        with pytest.raises(IndexError):
            batch[i]


@pytest.mark.parametrize(
    ("size", "name"),
    [(0, "small"), (SMALL_BYTES, "small"), (SMALL_BYTES + 1, "large"), (LARGE_BYTES, "large")],
)
def test_frame_lies_in_the_smallest_buffer_that_it_fits(pool: PacketPool, size: int, name: str) -> None:
    with FrameBatch(pool) as batch:
        batch.append(bytes(size))
        assert pool.stats()[name]["held"] == 1
        assert batch.room(0) == (SMALL_BYTES if name == "small" else LARGE_BYTES)


def test_frame_that_fits_no_buffer_is_refused(pool: PacketPool) -> None:
    batch = FrameBatch(pool)
    with pytest.raises(ConfigError):
        batch.append(bytes(LARGE_BYTES + 1))
    with pytest.raises(ConfigError):
        batch.acquire(1, size=LARGE_BYTES + 1)
    assert len(batch) == 0


def test_batch_holds_64_frames_and_no_more(pool: PacketPool) -> None:
    with FrameBatch(pool) as batch:
        batch.acquire(BATCH_MAX)
        with pytest.raises(LimitReached):
            batch.append(b"x")
        with pytest.raises(LimitReached):
            FrameBatch.over([bytearray(1)] * (BATCH_MAX + 1))
    with pytest.raises(LimitReached):
        batch.acquire(-1)


def test_resize_reaches_the_end_of_the_buffer_and_not_one_past_it(pool: PacketPool) -> None:
    with FrameBatch(pool) as batch:
        batch.append(b"abc")
        batch.resize(0, SMALL_BYTES)
        assert len(batch[0]) == SMALL_BYTES
        assert bytes(batch[0][:3]) == b"abc"
        for size in (-1, SMALL_BYTES + 1):
            with pytest.raises(ConfigError):
                batch.resize(0, size)


def test_view_keeps_the_batch_from_being_cleared(pool: PacketPool) -> None:
    batch = FrameBatch(pool)
    batch.append(b"abc")
    view = batch[0]
    view[0] = ord("x")
    with pytest.raises(BufferError):
        batch.clear()
    view.release()
    assert bytes(batch[0]) == b"xbc"
    batch.clear()


def test_error_in_a_block_is_not_hidden_by_a_view(pool: PacketPool) -> None:
    with pytest.raises(ZeroDivisionError), FrameBatch(pool) as batch:
        batch.append(b"abc")
        view = batch[0]
        raise ZeroDivisionError
    assert bytes(view) == b"abc"


def test_lost_batch_releases_its_frames(pool: PacketPool) -> None:
    batch = FrameBatch(pool)
    batch.append(b"abc")
    view = batch[0]
    del batch
    gc.collect()
    assert bytes(view) == b"abc"
    del view
    gc.collect()
    pool.close()


def test_virtio_net_header_lies_ahead_of_the_frame(pool: PacketPool) -> None:
    with FrameBatch(pool) as batch:
        batch.append(VNET + b"frame", vnet=True)
        batch.append(b"frame")
        header = batch.vnet_header(0)
        assert header is not None
        assert (bytes(header), bytes(batch[0])) == (VNET, b"frame")
        assert batch.vnet_header(1) is None
        header.release()
        with pytest.raises(ConfigError):
            batch.append(VNET[:11], vnet=True)


def test_batch_over_buffers_of_the_caller_copies_nothing() -> None:
    mine = bytearray(b"frame")
    batch = FrameBatch.over([mine, memoryview(mine)[1:]])
    batch[0][0] = ord("F")
    assert mine == b"Frame"
    assert bytes(batch[1]) == b"rame"
    assert batch.room(0) == 5
    with pytest.raises(BufferError):
        mine.append(0)
    batch.clear()
    mine.append(0)


def test_batch_over_buffers_takes_their_virtio_net_header() -> None:
    mine = bytearray(VNET + b"frame")
    with FrameBatch.over([mine], vnet=True) as batch:
        header = batch.vnet_header(0)
        assert header is not None
        assert (bytes(header), bytes(batch[0])) == (VNET, b"frame")
        header.release()
        batch.resize(0, 2)
        assert batch.room(0) == 5


@pytest.mark.parametrize(
    ("buffer", "error"),
    [
        pytest.param(b"read-only", BufferError, id="read-only"),
        pytest.param(memoryview(bytearray(8))[::2], BufferError, id="in pieces"),
        pytest.param(bytearray(11), ConfigError, id="shorter than its header"),
        pytest.param(bytearray(12 + LARGE_BYTES + 1), ConfigError, id="too long"),
    ],
)
def test_buffer_that_is_no_frame_is_refused_and_let_go(buffer: bytearray, error: type[Exception]) -> None:
    first = bytearray(12)
    with pytest.raises(error):
        FrameBatch.over([first, buffer], vnet=True)
    first.append(0)


def test_batch_without_a_pool_has_no_other_buffers() -> None:
    batch = FrameBatch.over([bytearray(4)])
    with pytest.raises(ConfigError):
        batch.append(b"x")
    with pytest.raises(ConfigError):
        batch.offset(0)
