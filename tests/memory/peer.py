"""The other process of a shared ring: `python -m tests.memory.peer ROLE FD EVENT_FD SIGNAL_FD…`."""

from __future__ import annotations

import sys
from array import array

from arcbox_net.memory.ring import LockFreeRing

DEADLINE_S = 30.0
ITEMS = 1_000_000


def add_up(ring: LockFreeRing) -> None:
    """Take a million items, and print how many there were and their sum."""
    out = array("Q", bytes(8 * 512))
    count = total = 0
    while count < ITEMS and ring.wait(DEADLINE_S):
        found = ring.pop_batch(memoryview(out).cast("B"))
        count += found
        total += sum(out[:found])
    print(count, total)


def echo(arriving: LockFreeRing, leaving: LockFreeRing) -> None:
    """Send every item back, until one of all ones."""
    while arriving.wait(DEADLINE_S):
        item = arriving.pop()
        assert item is not None
        if item == b"\xff" * 8:
            break
        leaving.push(item)


def main() -> None:
    fds = [int(word) for word in sys.argv[2:]]
    rings = [LockFreeRing.attach(*three) for three in zip(fds[::3], fds[1::3], fds[2::3], strict=True)]
    if sys.argv[1] == "sum":
        add_up(*rings)
    else:
        echo(*rings)


if __name__ == "__main__":
    main()
