"""A worker's own cost: `python -m bench.ports.worker`.

Frames of 60 bytes from a port that makes them at no cost to one that forgets them, through a patch: in one worker, and
from one worker to another. Beside them, in the same rounds: the same calls in a loop without worker, and 8-byte items
through the bare ring between two threads. And what it takes to send a worker that sleeps a message and get its answer.

Bulk is another matter: a process sends large frames into a stream port, each by a system call and some in a row, as
QEMU does, and they are read from a second one, with the worker's doze between turns and without. It sends them at a
rate, as nothing else would hold it back.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import NoReturn

from arcbox_net.dataplane._testing_flood import GO, FloodPort, calls_alone
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.worker import DOZE_US, Worker
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.memory._testing import consume, produce
from arcbox_net.memory.pool import PacketPool
from arcbox_net.memory.ring import LockFreeRing
from arcbox_net.ports.socket_port import PEER_CONNECT
from arcbox_net.ports.stream import StreamPort
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
BULK_S = 1.0
BULK_ROW_BYTES = 16_384
SILENCE_S = 0.2
LENGTH_BYTES = 4  # ahead of each frame of a stream
BULK = [(size, gbit_s, doze) for size, gbit_s in ((1514, 1), (65_534, 8)) for doze in (True, False)]


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


def bulk(size: int, gbit_s: int, doze: bool) -> Round:
    """Frames of *size* from one stream to another, which drops what finds no room."""
    patch = Patch()
    count = int(gbit_s * 1e9 / 8 * BULK_S) // size
    with Worker(doze_us=DOZE_US if doze else 0) as worker:
        numbers = [worker.add(StreamPort(frame_max=size), patch) for _ in range(2)]
        patch.lead(worker, *numbers)
        source, sink = (connected(worker, number) for number in numbers)
        cpu_s = sum(os.times()[:4])
        sender = os.fork()
        if not sender:
            send_frames(source, size, count)
        received = received_until_silence(sink)
        os.waitpid(sender, 0)
        cpu_s = sum(os.times()[:4]) - cpu_s  # of sender, worker and receiver
        wakeups = worker.counters()[numbers[0]].wakeups
        source.close()
        sink.close()
    return {
        "cpu_s_per_gb": cpu_s / (received / 1e9),
        "wakeups_per_mb": wakeups / (received / 1e6),
        "lost_percent": 100 * (1 - received / (count * (size + LENGTH_BYTES))),
    }


def received_until_silence(sink: socket.socket) -> int:
    """Bytes that come before nothing does for SILENCE_S."""
    received = 0
    sink.settimeout(SILENCE_S)
    with contextlib.suppress(TimeoutError):
        while piece := sink.recv(1 << 20):
            received += len(piece)
    return received


def bulk_name(size: int, gbit_s: int, doze: bool) -> str:
    return f"{size} bytes, {gbit_s} Gbit/s, {'dozing' if doze else 'without a doze'}"


def connected(worker: Worker, number: int) -> socket.socket:
    """The far end of a stream port."""
    far, near = socket.socketpair()
    worker.send(number, PEER_CONNECT, struct.pack("=i", near.detach()))
    return far


def send_frames(source: socket.socket, size: int, count: int) -> NoReturn:
    """In BULK_S, in rows of about BULK_ROW_BYTES. For a process of its own, which it ends."""
    framed = struct.pack("!I", size) + bytes(size)
    row = max(1, BULK_ROW_BYTES // size)
    started = time.perf_counter()
    for number in range(count):
        if number % row == 0:
            time.sleep(max(0, started + BULK_S * number / count - time.perf_counter()))
        source.sendall(framed)
    os._exit(0)


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    print(payload["environment"])
    contenders: dict[str, Callable[[], Round]] = {
        "one worker": in_one_worker,
        "calls alone": without_worker,
        "two workers": across_workers,
        "bare ring": bare_ring,
        "message": messages,
        **{bulk_name(*one): lambda one=one: bulk(*one) for one in BULK},
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
    gathered = table(
        ["frames from one stream to another", "CPU s/GB", "wake-ups/MB", "lost %"],
        [
            [
                name,
                *(
                    median_cell(found[name], key)
                    for key in ("cpu_s_per_gb", "wakeups_per_mb", "lost_percent")
                ),
            ]
            for name in (bulk_name(*one) for one in BULK)
        ],
    )
    show(payload, f"{rates}\n\n{answer}\n\n{gathered}")
    write_result(NAME, payload)


if __name__ == "__main__":
    run(rounds_wanted(__doc__, 5))
