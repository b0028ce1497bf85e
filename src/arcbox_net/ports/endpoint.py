"""What the endpoints of socket ports share: a port in the worker for as long as they run, and peers that come and go.

Number, bindings and counters are the port's, and stay. Whoever owns the worker's events hands `handle` the port's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.ports.socket_port import PEER_BAD_LENGTH, PEER_CONNECT, PEER_EOF, PEER_ERROR
from arcbox_net.ports.unix_sockets import check_path

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Port, Receiver
    from arcbox_net.dataplane.port_binding import PortHolder
    from arcbox_net.dataplane.worker_views import WorkerEvent

DIAL_AGAIN_S_MIN = 0.1
DIAL_AGAIN_S_MAX = 1.0

log = logging.getLogger("arcbox_net.ports")


class SocketEndpoint(ABC):
    """`trouble`: why the last peer went, or one was not let in. `on_change` is called when that or `is_up` changed."""

    def __init__(
        self,
        path: str,
        worker: PortHolder,
        switch: Receiver,
        port: Port,
        *,
        owner_uid: int | None,
        on_change: Callable[[], None],
    ) -> None:
        self.path = check_path(path)
        self.is_up = False
        self.trouble: str | None = None
        self.peer_pid: int | None = None
        self._worker = worker
        self._switch = switch
        self._port = port
        self._owner_uid = owner_uid
        self._on_change = on_change
        self._dialing: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """The port's, from `start` on."""
        assert self._port.number is not None
        return self._port.number

    async def start(self) -> None:
        """Raises ConfigError when the path cannot be used; nothing is left behind then."""
        self._worker.add(self._port, self._switch)
        try:
            self._open()
        except BaseException:
            self._worker.remove(self.number)
            raise

    async def stop(self) -> None:
        """Take the port out of the worker, and the socket out of the file system."""
        self._close()
        if self._dialing is not None:
            self._dialing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._dialing
        self.is_up = False
        if self._port.number is not None:  # it has started
            self._worker.remove(self.number)

    def handle(self, event: WorkerEvent) -> None:
        """The worker has lost the peer."""
        self._peer_gone(_why_lost(event))

    @abstractmethod
    def _open(self) -> None:
        """Begin to wait for a peer, or to look for one."""

    @abstractmethod
    def _close(self) -> None:
        """Wait no more, and let go of the peer."""

    @abstractmethod
    def _next_peer(self) -> None:
        """The last one is gone: wait, or look, for another."""

    async def _try(self, address: str) -> None:
        """Connect to *address*, and hand the socket over. Raises OSError."""
        raise NotImplementedError

    def _hand_over(self, peer: socket.socket, pid: int | None) -> None:
        """Give the worker a descriptor of *peer* of its own. Raises OSError when it does not take it."""
        descriptor = os.dup(peer.fileno())
        try:
            self._worker.send(self.number, PEER_CONNECT, struct.pack("i", descriptor))
        except OSError:
            os.close(descriptor)
            raise
        self.is_up, self.peer_pid = True, pid
        self._say(None)

    def _peer_gone(self, why: str) -> None:
        if self.is_up:
            self.is_up, self.peer_pid = False, None
            self._say(why)
            self._next_peer()

    def _say(self, trouble: str | None) -> None:
        if trouble is not None and trouble == self.trouble:
            return
        if trouble is not None:
            log.info("%s: %s", self.path, trouble)
        self.trouble = trouble
        self._on_change()

    def _admits(self, pid: int, uid: int) -> bool:
        """Whether a peer is the network's owner, or root."""
        if self._is_ours(uid):
            return True
        self._say(f"uid {uid} (pid {pid}) may not use this port")
        return False

    def _is_ours(self, uid: int) -> bool:
        return uid in (0, os.geteuid(), self._owner_uid)

    def _dial(self, address: str, delay_s: float = 0.0) -> None:
        self._dialing = asyncio.get_running_loop().create_task(self._dial_until_up(address, delay_s))

    async def _dial_until_up(self, address: str, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            try:
                return await self._try(address)
            except OSError as error:
                self._say(f"{address}: {error.strerror}")
            delay_s = min(max(2 * delay_s, DIAL_AGAIN_S_MIN), DIAL_AGAIN_S_MAX)


def _why_lost(event: WorkerEvent) -> str:
    if event.kind == PEER_EOF:
        return "the peer hung up" + (f" {event.value} bytes into a frame" if event.value else "")
    if event.kind == PEER_BAD_LENGTH:
        return f"the peer was disconnected: it announced a frame of {event.value} bytes"
    if event.kind == PEER_ERROR:
        return f"the peer is gone: {os.strerror(event.value)}"
    return "the worker gave the port up"
