"""How a target reads its input."""

from __future__ import annotations

from collections.abc import Iterator


class Input:
    """Bytes that are read from the front; there is always more, of zeros."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def __bool__(self) -> bool:
        return self.at < len(self.body)

    def take(self, size: int) -> bytes:
        taken = self.body[self.at : self.at + size]
        self.at += size
        return taken

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size), "big")


def steps(read: Input, most: int) -> Iterator[int]:
    """The number that each step begins with, until the input ends or there were *most*."""
    for _ in range(most):
        if not read:
            return
        yield read.number()
