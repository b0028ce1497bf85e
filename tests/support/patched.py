"""A worker with two ports that tests feed and drain, and a wire between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_port import TestingPort
from arcbox_net.dataplane.worker import Worker
from arcbox_net.memory.pool import PacketPool

PATIENCE_S = 30.0
MINIMUM = 60


def eventually(condition: Callable[[], object], what: str = "it") -> None:
    """Return when *condition* holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.0005)


def numbered(count: int, size: int = MINIMUM) -> list[bytes]:
    """Frames that differ."""
    return [i.to_bytes(4, "big").ljust(size, b"\0") for i in range(count)]


def collect(port: TestingPort, count: int, *, vnet: bool = False) -> list[bytes]:
    """The next *count* frames that *port* is to send."""
    found: list[bytes] = []

    def enough() -> bool:
        found.extend(port.taken(vnet=vnet))
        return len(found) >= count

    eventually(enough, f"{count} frames at a port")
    return found


@dataclass
class Patched:
    pool: PacketPool
    worker: Worker
    patch: Patch
    left: TestingPort
    right: TestingPort
    left_number: int
    right_number: int


@contextmanager
def patched(left: TestingPort | None = None, right: TestingPort | None = None) -> Iterator[Patched]:
    """A started worker; what one of its two ports receives, the other sends. All buffers are back at the end."""
    pool = left.pool if left else right.pool if right else PacketPool(8192, 16)
    left, right = left or TestingPort(pool), right or TestingPort(pool)
    with Worker(pool, spin_us=0) as worker:
        patch = Patch()
        a, b = worker.add(left, patch), worker.add(right, patch)
        patch.lead(worker, a, b)
        patch.lead(worker, b, a)
        yield Patched(pool, worker, patch, left, right, a, b)
    for port in (left, right):
        port.taken()
    pool.close()
