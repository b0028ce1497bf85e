"""An endpoint of connections: listens at a path, or connects to who listens there, and keeps one peer at a time."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.credentials import peer_credentials
from arcbox_net.ports.endpoint import DIAL_AGAIN_S_MIN, SocketEndpoint
from arcbox_net.ports.unix_sockets import BoundSocket, open_socket, refuse_descriptors

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Port, Receiver
    from arcbox_net.dataplane.port_binding import PortHolder

LISTEN_BACKLOG = 16
ACCEPT_AGAIN_S = 0.1


class ConnectedEndpoint(SocketEndpoint):
    """Listens at *path*, or with *connect* connects to whoever listens there, again and again.

    A peer that could send descriptors to who does not want them would have them closed there, which may take long
    (SO_LINGER): so only one that *takes_descriptors* can be sent any.
    """

    def __init__(
        self,
        path: str,
        worker: PortHolder,
        switch: Receiver,
        port: Port,
        *,
        connect: bool = False,
        takes_descriptors: bool = False,
        owner_uid: int | None = None,
        on_change: Callable[[], None],
    ) -> None:
        super().__init__(path, worker, switch, port, owner_uid=owner_uid, on_change=on_change)
        self._connect = connect
        self._takes_descriptors = takes_descriptors
        self._bound: BoundSocket | None = None
        self._peer: socket.socket | None = None  # the worker has a descriptor of its own
        self._next: socket.socket | None = None  # came before the worker saw that the last one is gone

    def _open(self) -> None:
        if self._connect:
            self._dial(self.path)
            return
        self._bound = BoundSocket(self.path, socket.SOCK_STREAM, self._owner_uid)
        if not self._takes_descriptors:
            refuse_descriptors(self._bound.socket)
        self._bound.socket.listen(LISTEN_BACKLOG)
        self._listen()

    def _close(self) -> None:
        if self._bound is not None:
            asyncio.get_running_loop().remove_reader(self._bound.socket)
            self._bound.close()
        for connection in (self._peer, self._next):
            if connection is not None:
                self._let_go(connection)
        self._peer = self._next = None

    def _let_go(self, connection: socket.socket) -> None:
        connection.close()

    def _check_room(self) -> None:
        """Raises OSError as long as no other peer can be had."""

    def _listen(self) -> None:
        if self._bound is not None and self._bound.socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._bound.socket, self._accept, self._bound.socket)

    def _accept(self, listener: socket.socket) -> None:
        try:
            self._check_room()
            peer, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # No descriptor left, or no room: clients wait, and so do we, instead of spinning.
            self._say(f"cannot accept a client: {error.strerror}")
            asyncio.get_running_loop().remove_reader(listener)
            asyncio.get_running_loop().call_later(ACCEPT_AGAIN_S, self._listen)
            return
        pid, uid = peer_credentials(peer)
        if not self._admits(pid, uid):
            self._let_go(peer)
        elif self._peer is None:
            self._take(peer)
        elif self._next is None and _hung_up(self._peer):
            self._next = peer
        else:
            self._let_go(peer)
            self._say(f"another client (pid {pid}) was refused: the port has one")

    def _take(self, peer: socket.socket) -> None:
        try:
            self._hand_over(peer, peer_credentials(peer)[0])
        except OSError as error:
            self._let_go(peer)
            self._say(f"the worker did not take a client: {error.strerror}")
            return
        self._peer = peer

    def _next_peer(self) -> None:
        if self._peer is not None:
            self._let_go(self._peer)
        self._peer, next_one, self._next = None, self._next, None
        if next_one is not None:
            self._take(next_one)
        elif self._connect:
            self._dial(self.path, DIAL_AGAIN_S_MIN)

    async def _try(self, address: str) -> None:
        self._check_room()
        peer = open_socket(socket.SOCK_STREAM)
        if not self._takes_descriptors:
            refuse_descriptors(peer)
        try:
            await asyncio.get_running_loop().sock_connect(peer, address)
            pid, uid = peer_credentials(peer)
            if not self._admits(pid, uid):
                raise PermissionError(0, f"uid {uid} listens there, who may not use this port")
            self._hand_over(peer, pid)
        except BaseException:
            self._let_go(peer)
            raise
        self._peer = peer


def _hung_up(peer: socket.socket) -> bool:
    poll = select.poll()
    poll.register(peer, getattr(select, "POLLRDHUP", select.POLLHUP))
    return bool(poll.poll(0))
