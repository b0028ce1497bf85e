"""A worker's own cost: `python -m bench.ports.worker`.

Frames of 60 bytes from a port that makes them at no cost to one that forgets them, through a patch: in one worker, and
from one worker to another. Beside them, in the same rounds: the same calls in a loop without worker, and 8-byte items
through the bare ring between two threads. And what it takes to send a worker that sleeps a message and get its answer.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

from arcbox_net.dataplane._testing_flood import GO, FloodPort, calls_alone
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.worker import Worker
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.memory._testing import consume, produce
from arcbox_net.memory.pool import PacketPool
from arcbox_net.memory.ring import LockFreeRing
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    quiet_check,
    rounds_wanted,
    show,
    table,
    write_result,
)
from bench.dataplane.ring import on_cores

NAME = "ports.worker"
FRAMES = 20_000_000
LINKED_FRAMES = 5_000_000
MESSAGES = 2_000
POLL_S = 0.001


def rate(frames: int, took_s: float) -> Round:
    return {"m_s": frames / took_s / 1e6, "ns": took_s / frames * 1e9}


def in_one_worker() -> Round:
    patch, source, sink = Patch(), FloodPort(), FloodPort()
    with Worker(PacketPool(64, 0), spin_us=0) as worker:
        a, b = worker.add(source, patch), worker.add(sink, patch)
        patch.lead(worker, a, b)
        started = time.perf_counter()
        worker.send(a, GO, struct.pack("=Q", FRAMES))
        while worker.counters()[b].tx_frames < FRAMES:
            time.sleep(POLL_S)
        return rate(FRAMES, time.perf_counter() - started)


def across_workers() -> Round:
    """Frames that arrive: a source that costs nothing is faster than any link, whose ring then drops."""
    patches, source, sink = [Patch(), Patch()], FloodPort(), FloodPort()
    with WorkerGroup(patches, PacketPool(16384, 0)) as group:
        a, b = group.add(source), group.add(sink)
        patches[0].lead(group.home(a), a, b)
        started = time.perf_counter()
        group.home(a).send(a, GO, struct.pack("=Q", LINKED_FRAMES))
        while source.left:
            time.sleep(POLL_S)
        took_s = time.perf_counter() - started
        arrived = group.home(b).counters()[b].tx_frames
        return rate(arrived, took_s) | {"arrived": arrived / LINKED_FRAMES}


def without_worker() -> Round:
    return rate(FRAMES, calls_alone(FloodPort(), FloodPort(), FRAMES) / 1e9)


def bare_ring() -> Round:
    ring = LockFreeRing(4096)
    started = time.perf_counter()
    on_cores(lambda: produce(ring, FRAMES, 64), lambda: consume(ring, FRAMES, 64))
    return rate(FRAMES, time.perf_counter() - started)


def messages() -> Round:
    patch, port = Patch(), FloodPort()
    with Worker(PacketPool(64, 0), spin_us=0) as worker:
        number = worker.add(port, patch)
        started = time.perf_counter()
        for _ in range(MESSAGES):
            worker.send(number, GO, bytes(8))
        return {"us": (time.perf_counter() - started) / MESSAGES * 1e6}


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    contenders: dict[str, Callable[[], Round]] = {
        "one worker": in_one_worker,
        "calls alone": without_worker,
        "two workers": across_workers,
        "bare ring": bare_ring,
        "message": messages,
    }
    payload["rounds"] = found = interleave(contenders, rounds)
    rates = table(
        ["frames of 60 bytes in bursts of 64", "million/s", "ns a frame"],
        [
            [what, median_cell(found[name], "m_s"), median_cell(found[name], "ns")]
            for what, name in (
                ("port, patch, port in one worker", "one worker"),
                ("the same calls without a worker", "calls alone"),
                ("from one worker to another, arrived", "two workers"),
                ("8-byte items through the bare ring", "bare ring"),
            )
        ],
    )
    answer = f"- a message to a worker that sleeps, and its answer: {median_cell(found['message'], 'us')} µs"
    show(payload, f"{rates}\n\n{answer}")
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 5))
