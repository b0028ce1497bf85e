"""How a byte stream becomes frames (Q1 to Q4), without a socket."""

from __future__ import annotations

import struct

import pytest

from arcbox_net.ports._testing_framing import RECEIVE_BYTES_MAX, Framing

FRAME_BYTES_MIN = 14
FRAME_BYTES_MAX = 65_550


def framed(*frames: bytes) -> bytes:
    return b"".join(struct.pack("!I", len(frame)) + frame for frame in frames)


def frame(size: int, number: int = 0) -> bytes:
    return number.to_bytes(4, "big").ljust(size, b"x")[:size]


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES_MIN - 1, FRAME_BYTES_MAX + 1, 1 << 31, 0xFFFFFFFF])
def test_length_that_no_frame_has_ends_the_stream_before_more_is_read_q1(length: int) -> None:
    with pytest.raises(ValueError, match=rf"^{length}$"):
        Framing().receive(struct.pack("!I", length))


@pytest.mark.parametrize("size", [FRAME_BYTES_MIN, FRAME_BYTES_MAX])
def test_smallest_and_largest_frame_pass_q1(size: int) -> None:
    assert Framing().receive(framed(frame(size))) == [frame(size)]


def test_frames_ahead_of_a_wrong_length_are_whole_q1() -> None:
    framing = Framing()
    assert framing.receive(framed(frame(60))) == [frame(60)]
    with pytest.raises(ValueError, match=r"^13$"):
        framing.receive(struct.pack("!I", 13) + framed(frame(60)))


def test_ten_thousand_frames_that_come_a_byte_at_a_time_are_whole_q2() -> None:
    framing, sent = Framing(), [frame(14 + i % 90, i) for i in range(10_000)]
    received = [one for byte in framed(*sent) for one in framing.receive(bytes([byte]))]
    assert received == sent and framing.unfinished == 0


def test_thousand_frames_come_at_once_q3() -> None:
    sent = [frame(60, i) for i in range(1000)]
    assert Framing().receive(framed(*sent)) == sent


def test_unfinished_frame_waits_for_its_end_however_full_the_memory_is_q3() -> None:
    framing, sent = Framing(), [frame(FRAME_BYTES_MAX - i, i) for i in range(20)]
    stream, received = framed(*sent), []
    for at in range(0, len(stream), RECEIVE_BYTES_MAX):
        received += framing.receive(stream[at : at + RECEIVE_BYTES_MAX])
    assert received == sent


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 63])
def test_stream_that_ends_within_a_frame_leaves_the_rest_of_it_unfinished_q4(cut: int) -> None:
    framing = Framing()
    assert framing.receive(framed(frame(60), frame(60))[: 64 + cut]) == [frame(60)]
    assert framing.unfinished == cut
