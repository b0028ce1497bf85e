"""A driver that writes whatever it likes into its rings, and calls the port in any order, beside the readable device.

An input is a byte that says which features, then steps: a byte that says what (`STEPS`), and what that step reads.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
from collections.abc import Callable

from arcbox_net.memory.pool import PacketPool
from arcbox_net.ports.vhost_user import port_messages
from arcbox_net.ports.vhost_user._testing import Turns
from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.port import VhostUserPort
from arcbox_net.ports.vhost_user.port_messages import NO_FD, RING_ENABLED, RING_RESUMES, PortMessage
from tests.fuzz.reader import Input, steps
from tests.oracle.vring import BadRing, Device, Dropped
from tests.support.virtqueue import USER, Ram, Ring

STEPS_MAX = 64
PAGE = 4096
SIZE = 8
EDGES = [0, 2 * PAGE, 4 * PAGE]  # two regions, one behind the other as the guest sees them
RINGS = (0, PAGE)
TABLES = 2 * PAGE - 64  # where indirect tables may be, over the regions' border
CHOICES = Feature.VERSION_1, Feature.MRG_RXBUF, Feature.INDIRECT_DESC, Feature.EVENT_IDX
OFFLOADS = Feature.CSUM | Feature.HOST_TSO4 | Feature.GUEST_CSUM | Feature.GUEST_TSO4
ADDRESSES = (
    0,
    2 * PAGE - 4,
    2 * PAGE,
    3 * PAGE,
    4 * PAGE - 64,
    4 * PAGE,
    (1 << 64) - 16,
    TABLES,
    TABLES + 16,
)
SIZES = (0, 1, 10, 12, 16, 32, 48, 64, 72, 300, 2048, 0xFFFF_FFFF, 17, 26, 8192, 4)
FRAME_SIZES = (14, 59, 60, 61, 256, 257, 1514, 9000, 65550)


@functools.cache
def guest() -> tuple[Ram, Turns]:
    """To make these takes longer than an input does: sessions follow each other on them, from a reset each."""
    return Ram(EDGES[-1], gpa=0), Turns(VhostUserPort(), PacketPool(small=8, large=8))


class Session:
    def __init__(self, options: int) -> None:
        self.ram, self.worker = guest()
        self.features = sum(bit for i, bit in enumerate(CHOICES) if options >> i & 1)
        self.features |= OFFLOADS if options & 16 else 0
        self.rings = [Ring(self.ram, at, SIZE) for at in RINGS]
        self.devices: list[Device | None] = [None, None]
        self.broken = False
        self.ram.write(0, bytes(EDGES[-1]))
        self.reset(Input(b""))

    def describe(self, read: Input) -> None:
        ring = self.rings[read.number() & 1]
        place, address, size = read.number() % SIZE, read.number(), SIZES[read.number() % len(SIZES)]
        at = ADDRESSES[address % len(ADDRESSES)] + (address >> 4)
        flags, following = read.number() & 7, read.number() % (SIZE + 1)
        ring.put(place, at % (1 << 64), size, flags, following)

    def write(self, read: Input) -> None:
        """Anything, anywhere."""
        at = read.number(2) % (EDGES[-1] - 64)
        self.ram.write(at, read.take(read.number() % 33))

    def offer(self, read: Input) -> None:
        ring = self.rings[read.number() & 1]
        ring.offer(*(read.number() % (SIZE + 1) for _ in range(read.number() % SIZE)))

    def set_index(self, read: Input) -> None:
        self.rings[read.number() & 1].set_index(read.number(2))

    def receive(self, read: Input) -> None:
        """Receive all that there is, and compare: beside what the port reads, as it has written to the rings before."""
        told: list[tuple[list[tuple[bytes, bytes]], int, int | None]] = []
        before = sum(self.worker.drops.values())
        found = self.worker.receive(before_release=lambda: told.append(self.readable_receive()))
        ((expected, drops, fault),) = told
        assert [(header, body) for header, body, _ in found] == expected
        assert sum(self.worker.drops.values()) - before == drops
        self.settle(1, fault)

    def readable_receive(self) -> tuple[list[tuple[bytes, bytes]], int, int | None]:
        """The frames, how many were dropped, and the fault that ended it."""
        device = self.devices[1]
        frames: list[tuple[bytes, bytes]] = []
        drops = 0
        if device is None or self.broken:
            return frames, drops, None
        try:
            for _ in range(device.available()):
                try:
                    frames.append(device.receive())
                except Dropped:
                    drops += 1
        except BadRing as bad:
            return frames, drops, bad.fault
        return frames, drops, None

    def send(self, read: Input) -> None:
        """Send one frame, and compare what became of it."""
        size = FRAME_SIZES[read.number() % len(FRAME_SIZES)]
        header = b"\1" + bytes(11) if self.features & Feature.GUEST_CSUM else bytes(12)
        device = self.devices[0]
        before, sent = self.worker.drops, self.worker.sent[0]
        fault: int | None = None
        expected: dict[object, int] = {}
        if device is not None and not self.broken:
            try:
                device.send(size)
            except Dropped as dropped:
                expected = {dropped.reason: 1}
            except BadRing as bad:
                fault = bad.fault
        self.worker.send([(header, bytes(size))], part_bytes=1 + read.number() * 64 + size // 60)
        gone = {
            why: n - before.get(why, 0) for why, n in self.worker.drops.items() if n != before.get(why, 0)
        }
        if device is None or self.broken or fault is not None:
            assert sum(gone.values()) == 1, "a port that does not run drops, and says so"
        else:
            assert gone == expected
            assert self.worker.sent[0] - sent == 1 - len(expected)
        self.settle(0, fault)

    def settle(self, index: int, fault: int | None) -> None:
        told = [value for _, value in self.worker.reported()]
        assert told == ([] if fault is None else [index << 16 | fault])
        self.broken = self.broken or fault is not None

    def arm(self, read: Input) -> None:
        device = self.devices[1]
        waiting = False
        if device is not None and not self.broken:
            index = int.from_bytes(self.ram.read(self.rings[1].available + 2, 2), "little")
            waiting = index != device.next
        assert self.worker.arm() == (not waiting)

    def stop(self, read: Input) -> None:
        index = read.number() & 1
        device = self.devices[index]
        answer = self.worker.message(PortMessage.RING_STOP, port_messages.RING_NUMBER.pack(index, 0))
        assert answer == (-errno.EINVAL if device is None else device.next)
        self.devices[index] = None

    def start(self, read: Input) -> None:
        index, base, flags = read.number() & 1, read.number(2), RING_ENABLED | read.number() & RING_RESUMES
        self.start_ring(index, base, flags)

    def start_ring(self, index: int, base: int, flags: int) -> None:
        ring = self.rings[index]
        layout = ring.descriptors + USER, ring.available + USER, ring.used + USER
        kick = os.eventfd(0, os.EFD_CLOEXEC) if index else NO_FD
        message = port_messages.RING_START.pack(index, SIZE, *layout, base, flags, kick, NO_FD)
        answer = self.worker.message(PortMessage.RING_START, message)
        if self.devices[index] is not None:
            assert answer == -errno.EBUSY
        elif answer == 0:
            if flags & RING_RESUMES:
                base = ring.used_index
            self.devices[index] = Device(self.ram, EDGES, ring, self.features, base)
        if answer < 0 and index:
            os.close(kick)

    def swap_memory(self, read: Input) -> None:
        """The same memory again, or without the first region, where the rings are."""
        whole = read.number() & 1
        self.add_memory(PortMessage.MEMORY_STAGE, EDGES if whole else EDGES[1:])
        answer = self.worker.message(PortMessage.MEMORY_COMMIT)
        if whole:
            assert answer == 0
        else:
            assert answer == (-errno.EFAULT if any(self.devices) else 0)
            self.devices = [None, None]

    def add_memory(self, kind: PortMessage, edges: list[int]) -> None:
        for start, end in itertools.pairwise(edges):
            region = start, end - start, start + USER, start, self.ram.fd
            assert self.worker.message(kind, port_messages.REGION.pack(*region)) == 0

    def reset(self, read: Input) -> None:
        assert self.worker.message(PortMessage.RESET) == 0
        self.devices = [None, None]
        self.broken = False
        assert self.worker.message(PortMessage.FEATURES, port_messages.FEATURES.pack(self.features)) == 0
        self.add_memory(PortMessage.MEMORY_ADD, EDGES)
        for index, ring in enumerate(self.rings):
            ring.set_index(0)
            self.start_ring(index, 0, RING_ENABLED)


STEPS: tuple[Callable[[Session, Input], None], ...] = (
    Session.describe,
    Session.offer,
    Session.receive,
    Session.send,
    Session.write,
    Session.describe,
    Session.arm,
    Session.set_index,
    Session.stop,
    Session.start,
    Session.swap_memory,
    Session.reset,
)


def drive(body: bytes) -> None:
    """The target: a session of a driver and a port."""
    read = Input(body)
    session = Session(read.number())
    for step in steps(read, STEPS_MAX):
        STEPS[step % len(STEPS)](session, read)
    session.receive(read)
    session.send(read)
    session.worker.message(PortMessage.RESET)
