"""Both ends of socket ports: a worker with ports, and the peers that a hypervisor would be."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable
from types import TracebackType

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_port import TestingPort
from arcbox_net.dataplane.port import Port
from arcbox_net.dataplane.worker import Worker
from arcbox_net.dataplane.worker_views import PortCounters, WorkerEvent
from arcbox_net.ports.socket_port import PEER_CONNECT
from tests.support.netns import PATIENCE_S, wait_until

LENGTH_BYTES = 4


def frame(size: int = 60, number: int = 0) -> bytes:
    """A frame that is told apart by *number*; its bytes differ from place to place."""
    return (number.to_bytes(4, "big") + bytes(range(256)) * (size // 256 + 1))[:size]


def framed(*frames: bytes) -> bytes:
    """What QEMU writes to a stream for them."""
    return b"".join(struct.pack("!I", len(one)) + one for one in frames)


class StreamPeer:
    """The far end of a stream port."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = b""

    def send(self, *frames: bytes) -> None:
        self.connection.sendall(framed(*frames))

    def receive(self, count: int, timeout: float = PATIENCE_S) -> list[bytes]:
        """The next *count* frames."""
        self.connection.settimeout(timeout)
        frames = []
        while len(frames) < count:
            length = int.from_bytes(self._take(LENGTH_BYTES), "big")
            frames.append(self._take(length))
        return frames

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            piece = self.connection.recv(1 << 20)
            assert piece, f"the port hung up {len(self._received)} bytes into something of {size}"
            self._received += piece
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def is_disconnected(self, timeout: float = PATIENCE_S) -> bool:
        """Whether the port hangs up within *timeout*, whatever comes before."""
        self.connection.settimeout(timeout)
        with contextlib.suppress(TimeoutError):
            try:
                while self.connection.recv(1 << 20):
                    pass
            except ConnectionError:
                pass
            return True
        return False


class Wire:
    """A worker with *port*, if any, and a testing port, each of which sends what the other receives."""

    def __init__(self, port: Port | None = None, *, frame_max: int = 1514, capacity: int = 4096) -> None:
        self.worker = Worker()
        self.worker.start()
        self.patch = Patch()
        self.far = TestingPort(self.worker.pool, frame_max=frame_max, capacity=capacity)
        self.far_number = self.worker.add(self.far, self.patch)
        self.number = -1
        if port is not None:
            self.number = self.worker.add(port, self.patch)
            self.lead(self.number, self.far_number)

    def lead(self, one: int, other: int) -> None:
        self.patch.lead(self.worker, one, other)
        self.patch.lead(self.worker, other, one)

    def connect(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Give the port one end of a pair, and return the other."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.hand_over(ours)
        return theirs

    def hand_over(self, connected: socket.socket) -> None:
        with connected:
            self.worker.send(self.number, PEER_CONNECT, struct.pack("i", connected.fileno()))
            connected.detach()

    def arrived(self, count: int) -> list[bytes]:
        """The next *count* frames that the port received."""
        found: list[bytes] = []
        wait_until(lambda: bool(found.extend(self.far.taken()) or len(found) >= count))
        return found

    def event(self) -> WorkerEvent:
        """The one thing that is reported next."""
        found: list[WorkerEvent] = []
        wait_until(lambda: bool(found.extend(self.worker.events()) or found))
        assert len(found) == 1, found
        return found[0]

    def feed(self, frames: Iterable[bytes]) -> int:
        """Have the port send *frames*, and wait until it was given them; how many that were."""
        count = self.far.put(frames)
        wait_until(lambda: self.far.waiting == 0, interval=0.001)
        with self.worker.paused():  # the turn has ended, and the frames' buffers are back
            return count

    def counters(self, number: int | None = None) -> PortCounters:
        return self.worker.counters()[self.number if number is None else number]

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.stop()
