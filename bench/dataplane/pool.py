"""Acquire and release of a buffer, beside malloc and the writing alone: `python -m bench.dataplane.pool`.

One thread without the GIL acquires a burst of buffers, writes a byte to each, and releases them. In `two threads` one
acquires and the other, on another core, releases: buffers travel by the ring and come back through the depot.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from arcbox_net import FrameBatch, LockFreeRing, PacketPool
from arcbox_net.memory._testing import churn, send_buffers, take_buffers
from arcbox_net.memory._testing_limits import malloc_free, touch
from arcbox_net.memory.pool import PoolCache
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from bench.dataplane.ring import on_cores
from bench.dataplane.slices import call_ns

NAME = "dataplane.pool"
BUFFERS = 20_000_000
TRAVELLERS = 5_000_000
BURSTS = (1, 32, 64)
CLASSES = {"pool, small": 0, "pool, large": 1}
# How far apart the small buffers of the pool are, and how far apart nobody should put them: all headers of a burst
# would share two sets of the first-level cache.
STRIDES = {"write alone": 2176, "write alone, 2,048 apart": 2048}
TARGET_NS = 5.0


def each(burst: int, loop: Callable[[int, int], int]) -> Callable[[], Round]:
    """A contender that goes through BUFFERS buffers, *burst* at a time, in as many nanoseconds as *loop* says."""
    rounds = BUFFERS // burst
    return lambda: {"ns": loop(rounds, burst) / rounds / burst}


def in_one_thread(burst: int) -> dict[str, Callable[[], Round]]:
    pool = PacketPool(touch=True)
    cache = PoolCache(pool)
    memory = bytearray(max(BURSTS) * max(STRIDES.values()))

    def of(size_class: int) -> Callable[[], Round]:
        return each(burst, lambda rounds, burst: churn(cache, size_class, rounds, burst))

    def bare(stride: int) -> Callable[[], Round]:
        return each(burst, lambda rounds, burst: touch(memory, stride, rounds, burst))

    return {
        **{name: of(size_class) for name, size_class in CLASSES.items()},
        "malloc": each(burst, malloc_free),
        **{name: bare(stride) for name, stride in STRIDES.items()},
    }


def between_threads() -> Round:
    pool, ring = PacketPool(touch=True), LockFreeRing(1024)
    sender, taker = PoolCache(pool), PoolCache(pool)
    began = time.perf_counter()
    sent, taken = on_cores(
        lambda: send_buffers(sender, ring, TRAVELLERS), lambda: take_buffers(taker, ring, TRAVELLERS)
    )
    took = time.perf_counter() - began
    if (sent, taken) != (TRAVELLERS, (TRAVELLERS, 0)):
        raise RuntimeError(f"{sent} of {TRAVELLERS} were sent, {taken} came")
    return {"ns": took / TRAVELLERS * 1e9}


def from_python() -> Round:
    """A batch of 64 empty frames that is acquired and cleared."""
    batch = FrameBatch(PacketPool(touch=True))

    def both() -> None:
        batch.acquire(64)
        batch.clear()

    return {"ns": call_ns(both)}


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    contenders: dict[str, Callable[[], Round]] = {"two threads": between_threads, "python": from_python}
    for burst in BURSTS:
        contenders |= {f"{name} {burst}": measure for name, measure in in_one_thread(burst).items()}
    payload["rounds"] = found = interleave(contenders, rounds)
    names = [*CLASSES, "malloc", *STRIDES]
    rows = table(
        ["ns a buffer", *names],
        [
            [f"bursts of {burst}", *(median_cell(found[f"{name} {burst}"], "ns") for name in names)]
            for burst in BURSTS
        ],
    )
    lines = [
        f"- acquire and release: {median_of(found['pool, small 1'], 'ns'):.2f} ns (target ≤ {TARGET_NS:.0f})",
        f"- acquired in one thread, released in another: {median_of(found['two threads'], 'ns'):.1f} ns",
        f"- `acquire(64)` and `clear()` of a batch from Python: {median_of(found['python'], 'ns'):.0f} ns",
    ]
    show(payload, "\n\n".join([rows, "\n".join(lines)]))
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 7))
