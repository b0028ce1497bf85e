"""fd.sock: TAP queues are handed to monitors over SOCK_SEQPACKET, one JSON request and one reply a message.

The file descriptors follow the reply in SCM_RIGHTS. Only the network's owner and root may connect.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from arcbox_net.config_ports import PATH_BYTES_MAX
from arcbox_net.errors import ArcboxNetError, ConfigError, StartFailed
from arcbox_net.network.messages import AttachTap, OpenTap, TapReply
from arcbox_net.network.peer import check_peer
from arcbox_net.ports.unix_sockets import bind_private, open_socket, refuse_descriptors

MESSAGE_BYTES_MAX = 4096
CLIENTS_MAX = 64
LISTEN_BACKLOG = 1024
ACCEPT_AGAIN_S = 0.1
IDLE_S = 5.0  # for a client to say what it wants, and to take it: others may be waiting for its place

log = logging.getLogger("arcbox_net.fdpass")
Handler = Callable[[AttachTap | OpenTap], Awaitable[tuple[TapReply, list[int]]]]


def listen(path: Path, kind: int) -> socket.socket:
    """A listening unix socket at *path*, 0600; the caller holds the network's lock, so an old one is stale.

    Raises StartFailed.
    """
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise StartFailed(
            f"{path}: a unix socket's path has at most {PATH_BYTES_MAX} bytes",
            fix="set ARCBOX_NET_RUNTIME_DIR to a directory with a shorter name",
            path=str(path),
        )
    path.unlink(missing_ok=True)
    listener = open_socket(kind)
    refuse_descriptors(listener)  # closing a client's could keep this process waiting
    bind_private(listener, str(path))
    listener.listen(LISTEN_BACKLOG)
    return listener


class FdServer:
    """Accepts clients and answers their requests through *handler*, which owns the fds until they are sent."""

    def __init__(self, listener: socket.socket, handler: Handler) -> None:
        self._listener = listener
        self._handler = handler
        self._clients: dict[asyncio.Task[None], socket.socket] = {}

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Hang up on every client. A request that is being answered is waited for: its fds would be nobody's."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        for connection in self._clients.values():
            with contextlib.suppress(OSError):  # it hung up itself
                connection.shutdown(socket.SHUT_RDWR)
        await asyncio.gather(*self._clients, return_exceptions=True)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:  # no descriptor left: the client waits, and so do we, instead of spinning
            log.error("fd.sock: %s", error.strerror)
            self._pause(ACCEPT_AGAIN_S)
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(connection))
        self._clients[task] = connection
        task.add_done_callback(self._ended)
        if len(self._clients) >= CLIENTS_MAX:  # further ones wait in the backlog
            asyncio.get_running_loop().remove_reader(self._listener)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._clients[task]
        self._resume()

    def _pause(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        loop.call_later(delay_s, self._resume)

    def _resume(self) -> None:
        if not self._is_closed and len(self._clients) < CLIENTS_MAX:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    @property
    def _is_closed(self) -> bool:
        return self._listener.fileno() < 0

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(OSError):
            while True:
                async with asyncio.timeout(IDLE_S):
                    message = await loop.sock_recv(connection, MESSAGE_BYTES_MAX)
                if not message or self._is_closed:
                    return
                reply, fds = await self._answer(connection, message)
                try:
                    async with asyncio.timeout(IDLE_S):
                        await self._send(connection, msgspec.json.encode(reply), fds)
                finally:
                    for fd in fds:
                        os.close(fd)

    async def _answer(self, connection: socket.socket, message: bytes) -> tuple[TapReply, list[int]]:
        try:
            check_peer(connection)
            try:
                request = msgspec.json.decode(message, type=AttachTap | OpenTap)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ConfigError(f"fd.sock: {error}", field="request", value=repr(message[:80])) from None
            return await self._handler(request)
        except ArcboxNetError as error:
            return TapReply(error=error.to_json()), []
        except Exception as error:
            log.exception("fd.sock: a request failed")
            failed = ArcboxNetError(
                f"internal error: {type(error).__name__}: {error}", fix="see the network's log"
            )
            return TapReply(error=failed.to_json()), []

    async def _send(self, connection: socket.socket, body: bytes, fds: list[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            try:
                connection.sendmsg([body], ancillary, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                ready = loop.create_future()
                loop.add_writer(connection, ready.set_result, None)
                try:
                    await ready
                finally:
                    loop.remove_writer(connection)
