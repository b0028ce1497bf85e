"""The sockets that ask upstreams: a fresh one for each attempt, so that its port is one more secret."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable

from arcbox_net.services.dns.actions import Ask
from arcbox_net.services.dns.settings import TCP_BYTES_MAX

SOCKETS_MAX = 2048
DATAGRAM_BYTES_MAX = 65535
PACKETS_PER_WAKE_MAX = 8


class Asker:
    """Carries out `Ask` and `Cancel`; *packet(attempt, bytes)* and *failed(attempt, reason)* report back."""

    def __init__(self, packet: Callable[[int, bytes], None], failed: Callable[[int, str], None]) -> None:
        self._packet = packet
        self._failed = failed
        self._sockets: dict[int, socket.socket] = {}
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._max = min(SOCKETS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    @property
    def open_sockets(self) -> int:
        return len(self._sockets) + len(self._streams)

    def ask(self, ask: Ask) -> None:
        """Send the question. Failures are reported later, never from inside this call."""
        loop = asyncio.get_running_loop()
        if self.open_sockets >= self._max:
            loop.call_soon(self._failed, ask.attempt, "sockets_full")
        elif ask.stream:
            self._streams[ask.attempt] = loop.create_task(self._stream(ask))
        else:
            self._datagram(loop, ask)

    def cancel(self, attempt: int) -> None:
        sock = self._sockets.pop(attempt, None)
        if sock is not None:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        task = self._streams.pop(attempt, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        for attempt in [*self._sockets, *self._streams]:
            self.cancel(attempt)

    def _datagram(self, loop: asyncio.AbstractEventLoop, ask: Ask) -> None:
        host, port = ask.upstream.endpoint
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_DGRAM)
            sock.setblocking(False)
            # Connected: the kernel drops what other addresses send, and tells when nobody is there.
            sock.connect(_sockaddr(host, port))
            sock.send(ask.packet)
        except OSError:
            if sock is not None:
                sock.close()
            loop.call_soon(self._failed, ask.attempt, "unreachable")
            return
        self._sockets[ask.attempt] = sock
        loop.add_reader(sock.fileno(), self._readable, ask.attempt, sock)

    def _readable(self, attempt: int, sock: socket.socket) -> None:
        for _ in range(PACKETS_PER_WAKE_MAX):
            if attempt not in self._sockets:
                return
            try:
                packet = sock.recv(DATAGRAM_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                self._failed(attempt, "unreachable")
                return
            self._packet(attempt, packet)

    async def _stream(self, ask: Ask) -> None:
        host, port = ask.upstream.endpoint
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.setblocking(False)
                await loop.sock_connect(sock, _sockaddr(host, port))
                await loop.sock_sendall(sock, len(ask.packet).to_bytes(2, "big") + ask.packet)
                size = int.from_bytes(await _exactly(loop, sock, 2), "big")
                packet = await _exactly(loop, sock, size)
        except (OSError, EOFError):
            if self._streams.pop(ask.attempt, None) is not None:
                self._failed(ask.attempt, "stream_failed")
            return
        if self._streams.pop(ask.attempt, None) is not None:
            self._packet(ask.attempt, packet)


async def _exactly(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        chunk = await loop.sock_recv(sock, min(size - len(received), TCP_BYTES_MAX))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)


def _sockaddr(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    address, _, scope = host.partition("%")
    if not scope:
        return (host, port)
    return (address, port, 0, int(scope) if scope.isdigit() else socket.if_nametoindex(scope))
