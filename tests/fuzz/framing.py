"""Arbitrary bytes in arbitrary pieces: the frames that come out are those that a slow reader finds in the whole."""

from __future__ import annotations

from arcbox_net.ports._testing_framing import Framing
from tests.fuzz.reader import Input

FRAME_BYTES = range(14, 65_551)
PIECES_MAX = 256
REPEATED_MAX = 0xFF


def split(body: bytes) -> None:
    """The target: each piece begins with its size, and how often what follows is repeated."""
    read, framing = Input(body), Framing()
    stream, received = b"", []
    wrong: int | None = None
    for _ in range(PIECES_MAX):
        if not read or wrong is not None:
            break
        piece = read.take(read.number()) * (1 + read.number() % REPEATED_MAX)
        stream += piece
        try:
            received += framing.receive(piece)
        except ValueError as error:
            wrong = error.args[0]
    frames, claimed, left = frames_of(stream)
    assert wrong == claimed, "a wrong length was taken for a frame's, or the other way round"
    if wrong is None:
        assert (received, framing.unfinished) == (frames, left)
    else:
        assert received == frames[: len(received)]


def frames_of(stream: bytes) -> tuple[list[bytes], int | None, int]:
    """The frames of *stream*, the first wrong length, and how many bytes are left."""
    frames = []
    while len(stream) >= 4:
        length = int.from_bytes(stream[:4], "big")
        if length not in FRAME_BYTES:
            return frames, length, len(stream)
        if len(stream) < 4 + length:
            break
        frames.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return frames, None, len(stream)
