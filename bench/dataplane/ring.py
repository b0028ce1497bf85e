"""The ring between two cores, and the machine below it: `python -m bench.dataplane.ring`.

A producer's and a consumer's thread without the GIL, each on a core of its own. The limits, in the same rounds: one
thread that writes the items to an array and reads them again, and a cache line that goes back and forth.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from collections.abc import Callable

from arcbox_net import LockFreeRing
from arcbox_net.memory._testing import consume, echo, produce, round_trips
from arcbox_net.memory._testing_limits import array_pass, bounce
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    percentile,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from bench.dataplane.slices import call_ns

NAME = "dataplane.ring"
CAPACITY = 4096
ITEMS = {1: 100_000_000, 8: 100_000_000, 32: 200_000_000, 64: 200_000_000}
ROUND_TRIPS = 100_000
PYTHON_BATCH = 64
TARGETS_M_S = {1: 120.0, 32: 400.0}


def on_cores(*work: Callable[[], object]) -> list[object]:
    """Run each on a core of its own, at once, and return what they return."""
    cores = sorted(os.sched_getaffinity(0))
    found: list[object] = [None] * len(work)

    def run(place: int) -> None:
        os.sched_setaffinity(0, {cores[place % len(cores)]})
        found[place] = work[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def streaming(burst: int) -> Callable[[], Round]:
    count = ITEMS[burst]

    def measure() -> Round:
        ring = LockFreeRing(CAPACITY)
        began = time.perf_counter()
        sent, taken = on_cores(lambda: produce(ring, count, burst), lambda: consume(ring, count, burst))
        took = time.perf_counter() - began
        if (sent, taken) != (count, (count, 0)):
            raise RuntimeError(f"{sent} of {count} went in, {taken} came out")
        return {"m_s": count / took / 1e6}

    return measure


def array_only(burst: int) -> Callable[[], Round]:
    slots = array("Q", bytes(8 * CAPACITY))
    count = ITEMS[burst]
    return lambda: {"m_s": count / array_pass(slots, count, burst) * 1e3}


def latency() -> Round:
    """Half of what an item takes to an echo and back."""
    there, back = LockFreeRing(CAPACITY), LockFreeRing(CAPACITY)
    took_ns = array("Q", bytes(8 * ROUND_TRIPS))
    done, _ = on_cores(lambda: round_trips(there, back, took_ns), lambda: echo(there, back, ROUND_TRIPS))
    if done != ROUND_TRIPS:
        raise RuntimeError(f"{done} of {ROUND_TRIPS} came back")
    return {"p50_ns": percentile(took_ns, 0.5) / 2, "p99_ns": percentile(took_ns, 0.99) / 2}


def cache_line() -> Round:
    line = array("Q", bytes(8 * 16))
    ours, _ = on_cores(lambda: bounce(line, 0, ROUND_TRIPS), lambda: bounce(line, 1, ROUND_TRIPS))
    assert isinstance(ours, int)
    return {"p50_ns": ours / ROUND_TRIPS / 2}


def from_python() -> Round:
    """A `push_batch` and a `pop_batch` of 64 items, in one thread."""
    ring, items = LockFreeRing(CAPACITY), bytearray(8 * PYTHON_BATCH)

    def both() -> None:
        ring.push_batch(items)
        ring.pop_batch(items)

    return {"ns": call_ns(both)}


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    contenders: dict[str, Callable[[], Round]] = {
        "latency": latency,
        "cache line": cache_line,
        "python": from_python,
    }
    for burst in ITEMS:
        contenders |= {f"ring {burst}": streaming(burst), f"array {burst}": array_only(burst)}
    payload["rounds"] = found = interleave(contenders, rounds)
    rates = table(
        ["million items/s", "ring, two threads", "array, one thread"],
        [
            [
                f"bursts of {burst}",
                *(median_cell(found[f"{who} {burst}"], "m_s") for who in ("ring", "array")),
            ]
            for burst in ITEMS
        ],
    )
    times = table(
        ["one way", "ns"],
        [
            ["item, median", median_cell(found["latency"], "p50_ns")],
            ["item, 99 %", median_cell(found["latency"], "p99_ns")],
            ["bare cache line, mean", median_cell(found["cache line"], "p50_ns")],
        ],
    )
    targets = [
        f"- bursts of {burst}: {median_of(found[f'ring {burst}'], 'm_s'):.0f} M items/s (target ≥ {target:.0f})"
        for burst, target in TARGETS_M_S.items()
    ]
    python_ns = median_of(found["python"], "ns")
    calls = f"- `push_batch` and `pop_batch` of {PYTHON_BATCH} items from Python: {python_ns:.0f} ns"
    show(payload, "\n\n".join([rates, times, "\n".join([*targets, calls])]))
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 7))
