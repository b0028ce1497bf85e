"""Two threads on the pool and on the ring, for ThreadSanitizer: `python -m tests.memory.racing sound|broken`.

Exits with 1 if items were lost or out of order. Whether there was a race is ThreadSanitizer's to say.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from arcbox_net.memory import _testing, _testing_broken
from arcbox_net.memory.pool import PacketPool, PoolCache
from arcbox_net.memory.ring import LockFreeRing

ITEMS = 50_000
RING_ITEMS = 64


def all_arrive(send: Callable[[], int], take: Callable[[], tuple[int, int]]) -> bool:
    """Run the two at once, and say whether every item arrived in order."""
    found: list[tuple[int, int]] = []
    taker = threading.Thread(target=lambda: found.append(take()))
    taker.start()
    sent = send()
    taker.join()
    return sent == ITEMS and found == [(ITEMS, 0)]


def ring_works(burst: int) -> bool:
    ring = LockFreeRing(RING_ITEMS)
    return all_arrive(
        lambda: _testing.produce(ring, ITEMS, burst), lambda: _testing.consume(ring, ITEMS, burst)
    )


def broken_ring_works() -> bool:
    ring = LockFreeRing(RING_ITEMS)
    return all_arrive(
        lambda: _testing_broken.produce(ring, ITEMS), lambda: _testing_broken.consume(ring, ITEMS)
    )


def pool_works() -> bool:
    ring, pool = LockFreeRing(RING_ITEMS), PacketPool(256, 0)
    sender, taker = PoolCache(pool), PoolCache(pool)
    works = all_arrive(
        lambda: _testing.send_buffers(sender, ring, ITEMS), lambda: _testing.take_buffers(taker, ring, ITEMS)
    )
    pool.close()
    return works


def main() -> int:
    works = (
        broken_ring_works() if sys.argv[1] == "broken" else ring_works(1) and ring_works(32) and pool_works()
    )
    return not works


if __name__ == "__main__":
    sys.exit(main())
