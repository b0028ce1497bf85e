"""What a vhost-user guest sends goes to the TAP out of its own memory, and may be refused: seen at the system call."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker import Worker
from arcbox_net.dataplane.worker_views import PortCounters, read_counters
from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.tap import TapPort
from arcbox_net.ports.vhost_user.port import VhostUserPort
from tests.ports.vhost_user.guest import USUAL, Guest, PortOfWorker, frame, signalled
from tests.support.datapath import QueueLine, open_tap
from tests.support.line import wait_for
from tests.support.netns import Namespace, requires_root

pytestmark = [
    pytest.mark.e2e,
    requires_root,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]

FRAME_MAX = 65_550
REFUSED = 20
HEAD_BYTES = 256  # of a frame, which are copied to be looked at
IOVEC = struct.Struct("=QQ")


@dataclass
class Wire:
    """A guest whose frames go to a TAP, by a worker of this process."""

    guest: Guest
    worker: Worker
    thread: int
    tap: int  # the port's number
    fd: int

    def send(self, size: int) -> None:
        self.guest.transmit(frame(size))
        os.eventfd_write(self.guest.kicks[1], 1)

    def counters(self) -> PortCounters:
        return self.worker.counters()[self.tap]

    def sleeps(self) -> int:
        with mmap.mmap(self.worker.counters_fd, 0, prot=mmap.PROT_READ) as memory:
            return read_counters(memory).sleeps

    @contextlib.contextmanager
    def injected(self, fault: str) -> Iterator[None]:
        """System calls of the worker fail, or wait, as strace's *fault* says, until the block ends."""
        with tempfile.NamedTemporaryFile() as calls:
            argv = ["strace", "-qq", "-o", calls.name, "-p", str(self.thread), "-e", f"inject={fault}"]
            tracer = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
            try:
                # It is attached some time before it stops the worker's calls.
                wait_for(lambda: os.path.getsize(calls.name) > 0, "a call that strace saw")
                yield
            finally:
                tracer.kill()
                tracer.wait()


@pytest.fixture
def wire() -> Iterator[Wire]:
    before = set(os.listdir("/proc/self/task"))
    with PacketPool() as pool, Worker(pool) as worker, Namespace("wire") as host:
        (thread,) = map(int, set(os.listdir("/proc/self/task")) - before)
        (fd,) = open_tap(host, "192.0.2.1/24")
        line = QueueLine(worker)
        tap = line.add(TapPort(frame_max=FRAME_MAX), fd)
        number = line.add(VhostUserPort(frame_max=FRAME_MAX))
        guest = Guest(USUAL, port=PortOfWorker(worker, number))
        line.join(number, tap)
        yield Wire(guest, worker, thread, tap, fd)
        guest.close()


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
def test_frame_is_written_to_the_tap_from_where_the_guest_has_it(wire: Wire, size: int) -> None:
    with wire.injected("writev:delay_enter=60s"):
        wire.send(size)
        wait_for(lambda: bool(vectors_of_call(wire.thread, wire.fd)), "writev to the TAP")
        (head, head_size), *rest = vectors_of_call(wire.thread, wire.fd)
        assert (head_size, sum(part for _, part in rest)) == (12 + HEAD_BYTES, size - HEAD_BYTES)
        assert not is_the_guests(head)
        assert all(is_the_guests(at) for at, _ in rest)
    wait_for(lambda: wire.counters().tx_frames == 1, "the frame")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("EAGAIN", PortDrop.PORT_DROP_FULL),
        ("ENOBUFS", PortDrop.PORT_DROP_FULL),
        ("EINTR", PortDrop.PORT_DROP_FULL),
        ("ENETDOWN", PortDrop.PORT_DROP_DOWN),
        ("EPERM", PortDrop.PORT_DROP_KERNEL),
    ],
)
def test_k6_frames_that_the_kernel_refuses_are_counted_and_the_guest_gets_its_buffers_back(
    wire: Wire, error: str, reason: PortDrop
) -> None:
    before = wire.counters().drops.get(reason, 0)
    with wire.injected(f"writev:error={error}"):
        for _ in range(REFUSED):
            wire.send(1514)
        wait_for(lambda: wire.guest.rings[1].used_index == REFUSED, "the guest's buffers")
    assert wire.counters().drops[reason] - before >= REFUSED
    wire.send(1514)
    wait_for(lambda: wire.counters().tx_frames == 1, "the frame after them")


def used(wire: Wire, count: int) -> None:
    """Send that many frames, and wait until the guest has their buffers back and was called."""
    for number in range(wire.guest.rings[1].used_index + 1, count + 1):
        wire.send(1514)
        wait_for(lambda number=number: wire.guest.rings[1].used_index == number, "the guest's buffer")
        wait_for(lambda: signalled(wire.guest.calls[1]) > 0, "the call")


@pytest.mark.parametrize("refusals", ["1..2", "1..6"], ids=["as often as it is tried at once", "for longer"])
def test_k6_a_call_that_the_kernel_has_no_room_for_is_made_without_another_frame(
    wire: Wire, refusals: str
) -> None:
    used(wire, 2)
    with wire.injected(f"io_submit:error=EAGAIN:when={refusals}"):
        used(wire, 3)


def test_k6_calls_that_the_kernel_has_no_room_for_do_not_keep_the_worker_from_sleeping(wire: Wire) -> None:
    used(wire, 2)
    with wire.injected("io_submit:error=EAGAIN"):
        wire.send(1514)
        wait_for(lambda: wire.guest.rings[1].used_index == 3, "the guest's buffer")
        slept = wire.sleeps()
        wait_for(lambda: wire.sleeps() > slept + 3, "a worker that sleeps between ticks")
