"""A guest with a driver in Python, at a port whose worker is the test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker import Worker
from arcbox_net.ports.vhost_user import port_messages
from arcbox_net.ports.vhost_user._testing import Turns
from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.port import VhostUserPort
from arcbox_net.ports.vhost_user.port_messages import NO_FD, RING_ENABLED, PortMessage
from arcbox_net.ports.vhost_user.vring import RingFault
from tests.support.virtqueue import HEADER, USER, Buffer, Ram, Ring

RAM_BYTES = 4 << 20
RINGS_BYTES = 1 << 16  # at the start of the memory
RING_SIZE = 64
USUAL = Feature.VERSION_1 | Feature.MRG_RXBUF | Feature.INDIRECT_DESC
OFFLOADS = Feature.CSUM | Feature.HOST_TSO4 | Feature.HOST_TSO6 | Feature.HOST_ECN
GUEST_OFFLOADS = Feature.GUEST_CSUM | Feature.GUEST_TSO4 | Feature.GUEST_TSO6 | Feature.GUEST_ECN
PLAIN = bytes(12)  # a virtio-net header that asks for nothing


def descriptor() -> int:
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def signalled(fd: int) -> int:
    """How often the eventfd was written since the last call."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


def frame(size: int = 60, number: int = 0) -> bytes:
    """Any frame of that many bytes, told from others by *number*."""
    head = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + number.to_bytes(4, "big")
    return (head + bytes(i * 7 & 0xFF for i in range(size)))[:size]


class PortOfWorker:
    """A vhost-user port in a worker that runs, as a `Guest` knows it."""

    def __init__(self, worker: Worker, number: int) -> None:
        self.worker, self.number = worker, number

    def message(self, kind: int, payload: bytes = b"") -> int:
        return self.worker.send(self.number, kind, payload)


class Guest:
    """Rings 2n receive and 2n + 1 transmit; with *start* all run. The test takes the worker's turns, or *port* runs."""

    def __init__(
        self,
        features: int = USUAL,
        *,
        pairs: int = 1,
        size: int = RING_SIZE,
        start: bool = True,
        unsealed: bool = False,
        port: PortOfWorker | None = None,
    ) -> None:
        self.ram = Ram(RAM_BYTES)
        if port is None:
            self.worker = Turns(VhostUserPort(pairs=pairs, unsealed=unsealed))
        self._port = port or self.worker
        self.features = features
        self.rings: list[Ring] = []
        at = self.ram.gpa
        for _ in range(2 * pairs):
            ring = Ring(self.ram, (at + 15) & ~15, size)
            self.rings.append(ring)
            at = ring.end
        self.room = max(at, self.ram.gpa + RINGS_BYTES)
        self.kicks = [descriptor() for _ in self.rings]
        self.calls = [descriptor() for _ in self.rings]
        if start:
            assert self.tell_features() == 0
            assert self.map() == 0
            for index in range(len(self.rings)):
                assert self.start(index) == 0

    def close(self) -> None:
        self._port.message(PortMessage.RESET)
        self.ram.close()
        for fd in self.kicks + self.calls:
            os.close(fd)

    def tell(self, kind: PortMessage, payload: bytes = b"") -> int:
        return self._port.message(kind, payload)

    def tell_features(self) -> int:
        return self.tell(PortMessage.FEATURES, port_messages.FEATURES.pack(self.features))

    def map(self, *, fd: int | None = None, kind: PortMessage = PortMessage.MEMORY_ADD) -> int:
        """Give the port the guest's memory; its answer."""
        region = self.ram.gpa, self.ram.size, self.ram.gpa + USER, 0, self.ram.fd if fd is None else fd
        return self.tell(kind, port_messages.REGION.pack(*region))

    def start(
        self, index: int, *, base: int = 0, flags: int = RING_ENABLED, kick: bool = True, **changed: int
    ) -> int:
        """Start a ring; the port's answer."""
        ring = self.rings[index]
        fields = {
            "size": ring.size,
            "descriptors": ring.descriptors + USER,
            "available": ring.available + USER,
            "used": ring.used + USER,
        } | changed
        fds = os.dup(self.kicks[index]) if kick else NO_FD, os.dup(self.calls[index])
        answer = self.tell(
            PortMessage.RING_START,
            port_messages.RING_START.pack(index, *fields.values(), base, flags, *fds),
        )
        if answer < 0:
            for fd in fds:
                if fd != NO_FD:
                    os.close(fd)
        return answer

    def stop(self, index: int) -> int:
        return self.tell(PortMessage.RING_STOP, port_messages.RING_NUMBER.pack(index, 0))

    def enable(self, index: int, on: int = 1) -> int:
        return self.tell(PortMessage.RING_ENABLE, port_messages.RING_NUMBER.pack(index, on))

    def place(self, content: bytes | int) -> Buffer:
        """Room for *content*, or for as many bytes, and what it is called."""
        size = content if isinstance(content, int) else len(content)
        address = self.room
        self.room += (size + 63) & ~63
        if not isinstance(content, int):
            self.ram.write(address, content)
        return address, size

    def transmit(
        self, body: bytes, header: bytes = PLAIN, *, pair: int = 0, cuts: tuple[int, ...] = ()
    ) -> int:
        """Offer a frame behind its header, cut into buffers at *cuts*; the head of its chain."""
        whole = header + body
        edges = [0, *cuts, len(whole)]
        ring = self.rings[2 * pair + 1]
        parts = [self.place(whole[a:b]) for a, b in itertools.pairwise(edges)]
        head = ring.chain(readable=parts)
        ring.offer(head)
        return head

    def supply(self, *sizes: int, pair: int = 0) -> list[Buffer]:
        """Offer a buffer of each size to receive into."""
        ring = self.rings[2 * pair]
        buffers = [self.place(size) for size in sizes]
        ring.offer(*(ring.chain(writable=[each]) for each in buffers))
        return buffers

    def received(self, *, pair: int = 0) -> list[tuple[tuple[int, ...], bytes]]:
        """Frames that came: the header's fields, and the frame."""
        ring = self.rings[2 * pair]
        entries = iter(ring.finished())
        found = []
        for entry in entries:
            content = self.content(ring, *entry)
            fields = HEADER.unpack(content[: HEADER.size])
            for _ in range(1, fields[-1]):
                content += self.content(ring, *next(entries))
            found.append((fields, content[HEADER.size :]))
        return found

    def content(self, ring: Ring, head: int, size: int) -> bytes:
        """The first *size* bytes of a chain."""
        content = b""
        while True:
            address, room, flags, following = ring.descriptor(head)
            content += self.ram.read(address, room)
            if not flags & 1:
                assert size <= len(content)
                return content[:size]
            head = following

    @property
    def drops(self) -> dict[PortDrop, int]:
        return self.worker.drops

    @property
    def fault(self) -> RingFault | None:
        """Why the port is lost, as control was told; None if it is not."""
        reports = self.worker.reported()
        assert len(reports) <= 1, "the reason is told once"
        return RingFault(reports[0][1] & 0xFFFF) if reports else None


@contextmanager
def guest(
    features: int = USUAL,
    *,
    pairs: int = 1,
    size: int = RING_SIZE,
    start: bool = True,
    unsealed: bool = False,
) -> Iterator[Guest]:
    one = Guest(features, pairs=pairs, size=size, start=start, unsealed=unsealed)
    try:
        yield one
    finally:
        one.close()
