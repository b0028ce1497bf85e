"""What a vhost-user guest sends goes to the network's TAP out of its own memory, as strace has us see."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbox_net.dataplane.worker import Worker
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.tap import TapPort
from arcbox_net.ports.vhost_user.port import VhostUserPort
from tests.ports.vhost_user.guest import USUAL, Guest, PortOfWorker, frame
from tests.support.datapath import Line, open_tap, wait_for
from tests.support.netns import Namespace, requires_root

pytestmark = [
    pytest.mark.e2e,
    requires_root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

FRAME_MAX = 65_550
HEAD_BYTES = 256  # of a frame, which are copied to be looked at
IOVEC = struct.Struct("=QQ")


@contextlib.contextmanager
def held_at(call: str, thread: int) -> Iterator[None]:
    """Calls of that name wait at their entry until the block ends."""
    held = ["strace", "-qq", "-o", "/dev/null", "-p", str(thread), "-e", f"inject={call}:delay_enter=60s"]
    tracer = subprocess.Popen(held, stdin=subprocess.DEVNULL)
    try:
        status = Path(f"/proc/self/task/{thread}/status")
        wait_for(lambda: f"TracerPid:\t{tracer.pid}\n" in status.read_text(), "strace")
        yield
    finally:
        tracer.kill()
        tracer.wait()


def vectors_of_call(thread: int, fd: int) -> list[tuple[int, int]]:
    """Addresses and sizes that the thread's system call hands over for *fd*; empty while it makes none."""
    words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    if len(words) < 4 or int(words[1], 0) != fd:
        return []
    return list(IOVEC.iter_unpack(ctypes.string_at(int(words[2], 0), IOVEC.size * int(words[3], 0))))


def is_the_guests(address: int) -> bool:
    """Whether memory of the guest is mapped there in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, end = line.partition(" ")[0].partition("-")
        if int(first, 16) <= address < int(end, 16):
            return "/memfd:guest" in line
    return False


@pytest.mark.parametrize("size", [1514, FRAME_MAX])
def test_frame_is_written_to_the_tap_from_where_the_guest_has_it(size: int) -> None:
    before = set(os.listdir("/proc/self/task"))
    with PacketPool() as pool, Worker(pool) as worker, Namespace("copies") as host:
        (thread,) = map(int, set(os.listdir("/proc/self/task")) - before)
        (fd,) = open_tap(host, "192.0.2.1/24")
        line = Line(worker)
        tap = line.add(TapPort(frame_max=FRAME_MAX), fd)
        number = line.add(VhostUserPort(frame_max=FRAME_MAX))
        guest = Guest(USUAL, port=PortOfWorker(worker, number))
        line.join(number, tap)
        sent = worker.counters()[tap].tx_frames
        with held_at("writev", thread):
            guest.transmit(frame(size))
            os.eventfd_write(guest.kicks[1], 1)
            wait_for(lambda: bool(vectors_of_call(thread, fd)), "writev to the TAP")
            (head, head_size), *rest = vectors_of_call(thread, fd)
            assert (head_size, sum(part for _, part in rest)) == (12 + HEAD_BYTES, size - HEAD_BYTES)
            assert not is_the_guests(head)
            assert all(is_the_guests(at) for at, _ in rest)
        wait_for(lambda: worker.counters()[tap].tx_frames > sent, "the frame")
        guest.close()
