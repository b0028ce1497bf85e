"""Frames a second that ports let out: `python -m bench.ports.floor`, and `--check` against what is stored.

A port that makes frames at no cost sends them, through a worker, into a TAP whose kernel drops them at the door, and
into a stream socket whose peer only reads. Frames of 60 bytes (64 with the wire's checksum) and of 1,514. As root, in a
network namespace. `--check` measures five rounds and fails when the median of one kind has fallen by more than a
tenth of its stored one, both in units of the empty loop of their rounds: the machine is not always equally fast.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from arcbox_net.dataplane._testing_flood import GO, FloodPort
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_switch import empty_ns
from arcbox_net.dataplane.port import Port
from arcbox_net.dataplane.worker import Worker
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.socket_port import PEER_CONNECT
from arcbox_net.ports.stream import StreamPort
from arcbox_net.ports.tap import TapPort
from bench.common import (
    Round,
    environment,
    interleave,
    median_cell,
    median_of,
    quiet_check,
    read_result,
    show,
    table,
    write_result,
)
from tests.support.datapath import give_queue, open_tap
from tests.support.netns import Namespace

NAME = "ports.floor"
SIZES = (60, 1514)
FRAMES = 400_000
FRAME_MAX = 1514
POLL_S = 0.001
READ_BYTES = 1 << 20
FALL_MAX = 0.1
ROUNDS = 5
EMPTY = "empty loop"
LOOPS = (64, 20_000)


@contextlib.contextmanager
def tap_port(worker: Worker, patch: Patch) -> Iterator[int]:
    with Namespace("floor") as namespace:
        number = worker.add(TapPort(frame_max=FRAME_MAX), patch)
        for fd in open_tap(namespace, "192.0.2.1/24"):
            give_queue(worker, number, fd)
        yield number


@contextlib.contextmanager
def stream_port(worker: Worker, patch: Patch) -> Iterator[int]:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def read() -> None:
        buffer = bytearray(READ_BYTES)
        while peer.recv_into(buffer):
            pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    number = worker.add(StreamPort(frame_max=FRAME_MAX), patch)
    worker.send(number, PEER_CONNECT, struct.pack("i", ours.detach()))
    with peer:
        yield number
        peer.shutdown(socket.SHUT_RDWR)
        reader.join()


Opened = Callable[[Worker, Patch], contextlib.AbstractContextManager[int]]


def flood(opened: Opened, size: int) -> Round:
    """Frames of *size* that the port let out, a second."""
    patch, source = Patch(), FloodPort(size)
    with Worker(PacketPool(64, 0), spin_us=0) as worker, opened(worker, patch) as sink:
        port: Port = source
        number = worker.add(port, patch)
        patch.lead(worker, number, sink)
        before, started = worker.counters()[sink].tx_frames, time.perf_counter()
        worker.send(number, GO, struct.pack("=Q", FRAMES))
        while source.left:
            time.sleep(POLL_S)
        took_s = time.perf_counter() - started
        sent = worker.counters()[sink].tx_frames - before
        return {"m_s": sent / took_s / 1e6, "sent": sent / FRAMES}


def contenders() -> dict[str, Callable[[], Round]]:
    found: dict[str, Callable[[], Round]] = {EMPTY: lambda: {"ns": empty_ns(*LOOPS) / LOOPS[0] / LOOPS[1]}}
    for kind, opened in (("TAP", tap_port), ("stream", stream_port)):
        for size in SIZES:
            found[f"{kind}, {size} bytes"] = lambda opened=opened, size=size: flood(opened, size)
    return found


def fallen(stored: dict[str, list[Round]], now: dict[str, list[Round]]) -> list[str]:
    """What lets out fewer frames than it did, by more than FALL_MAX: one line each."""
    lines = []
    for name in stored:
        if name == EMPTY:
            continue
        then, current = (
            median_of(rounds[name], "m_s") * median_of(rounds[EMPTY], "ns") for rounds in (stored, now)
        )
        if current < then * (1 - FALL_MAX):
            lines.append(f"{name}: {current / then - 1:+.0%} against what is stored")
    return lines


def run(rounds: int) -> None:
    payload = {"environment": environment("gcc"), "quiet": quiet_check()}
    payload["rounds"] = found = interleave(contenders(), rounds)
    rows: list[Sequence[object]] = [
        [name, median_cell(found[name], "m_s"), median_cell(found[name], "sent")]
        for name in found
        if name != EMPTY
    ]
    show(payload, table(["port and frame", "million/s", "let out of those offered"], rows))
    write_result(NAME, payload)


def check() -> int:
    lines = fallen(read_result(NAME)["rounds"], interleave(contenders(), ROUNDS))
    print("\n".join(lines) or "no port has become slower")
    return 1 if lines else 0


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--check", action="store_true", help="compare, and store nothing")
    arguments = options.parse_args()
    if arguments.check:
        sys.exit(check())
    run(arguments.rounds)
