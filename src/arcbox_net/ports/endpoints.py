"""The unix sockets of ports: who comes there is looked at, and goes to the worker, one at a time."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.ports.connected_endpoint import ConnectedEndpoint
from arcbox_net.ports.dgram import DgramPort
from arcbox_net.ports.endpoint import SocketEndpoint
from arcbox_net.ports.socket_port import PEER_DISCONNECT
from arcbox_net.ports.stream import StreamPort
from arcbox_net.ports.unix_sockets import (
    BoundSocket,
    ask_for_senders,
    inode_of,
    is_served,
    peek_sender,
    refuse_descriptors,
)

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Receiver
    from arcbox_net.dataplane.port_binding import PortHolder

PEER_CHECK_S = 0.2  # a datagram socket does not say that its peer is gone
HANDSHAKE = b"VFKT"  # what vfkit and krunkit send first, to be answered at the address it came from


class StreamEndpoint(ConnectedEndpoint):
    """Of QEMU's `-netdev stream`."""

    def __init__(
        self,
        path: str,
        worker: PortHolder,
        switch: Receiver,
        *,
        connect: bool = False,
        frame_max: int,
        owner_uid: int | None = None,
        on_change: Callable[[], None],
    ) -> None:
        port = StreamPort(frame_max=frame_max)
        super().__init__(
            path, worker, switch, port, connect=connect, owner_uid=owner_uid, on_change=on_change
        )


class DgramEndpoint(SocketEndpoint):
    """Bound at *path*. The peer is at *remote*, or else is whoever sends first: a frame, or the handshake of vfkit."""

    def __init__(
        self,
        path: str,
        worker: PortHolder,
        switch: Receiver,
        *,
        remote: str | None = None,
        frame_max: int,
        owner_uid: int | None = None,
        on_change: Callable[[], None],
    ) -> None:
        port = DgramPort(frame_max=frame_max)
        super().__init__(path, worker, switch, port, owner_uid=owner_uid, on_change=on_change)
        self._remote = remote
        self._bound: BoundSocket | None = None
        self._check: asyncio.TimerHandle | None = None

    def _open(self) -> None:
        self._bound = BoundSocket(self.path, socket.SOCK_DGRAM, self._owner_uid)
        ask_for_senders(self._bound.socket)
        refuse_descriptors(self._bound.socket)
        self._next_peer()

    def _close(self) -> None:
        if self._check is not None:
            self._check.cancel()
        if self._bound is not None:
            asyncio.get_running_loop().remove_reader(self._bound.socket)
            self._bound.close()

    def _next_peer(self) -> None:
        assert self._bound is not None
        if self._check is not None:
            self._check.cancel()
        if self._remote is not None:
            self._dial(self._remote, PEER_CHECK_S if self._check is not None else 0.0)
        else:
            asyncio.get_running_loop().add_reader(self._bound.socket, self._first, self._bound.socket)

    def _first(self, bound: socket.socket) -> None:
        """Make the sender of the first datagram the peer. A frame is left for the worker to receive."""
        try:
            body, sender, pid, uid = peek_sender(bound, len(HANDSHAKE) + 1)
        except OSError:
            return
        if not self._admits(pid, uid):
            bound.recv(1)
            return
        if body == HANDSHAKE:
            bound.recv(1)
        try:
            self._join(bound, sender or "", pid)
        except OSError as error:
            self._say(
                f"{os.fsdecode(sender) or 'a peer without an address'} cannot be answered: {error.strerror}"
            )
            if body != HANDSHAKE:
                bound.recv(1)
            return
        if self.is_up:  # or it is gone already, and the next one is waited for
            asyncio.get_running_loop().remove_reader(bound)

    async def _try(self, address: str) -> None:
        assert self._bound is not None
        uid = os.stat(address).st_uid  # there are no credentials before the first datagram
        if not self._is_ours(uid):
            raise PermissionError(0, f"uid {uid} has its socket there, who may not use this port")
        self._join(self._bound.socket, address, None)

    def _join(self, bound: socket.socket, address: str | bytes, pid: int | None) -> None:
        bound.connect(address)  # from here on the kernel lets nobody else send
        self._hand_over(bound, pid)
        self._watch(address, inode_of(address))

    def _watch(self, address: str | bytes, inode: tuple[int, int] | None) -> None:
        """See now and then whether the socket at *address* is still the peer's."""
        try:
            is_there = inode_of(address) == inode and is_served(address, socket.SOCK_DGRAM)
        except OSError:
            is_there = False
        if is_there:
            loop = asyncio.get_running_loop()
            self._check = loop.call_later(PEER_CHECK_S, self._watch, address, inode)
            return
        try:
            self._worker.send(self.number, PEER_DISCONNECT)
        except OSError:  # it has lost the peer, and its event is on the way
            return
        self._peer_gone("the peer's socket is gone")
