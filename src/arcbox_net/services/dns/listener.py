"""The sockets on which guests reach the forwarder: binding them, the UDP drain loop, and TCP connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from arcbox_net.errors import ServiceError
from arcbox_net.services.dns.settings import (
    IPV6_BYTES,
    TCP_BYTES_MAX,
    TCP_CONNECTIONS_PER_GUEST_MAX,
    TCP_IDLE_S,
    TCP_PIPELINE_MAX,
    Endpoint,
)

UDP_BUFFER_BYTES = 4 << 20  # 200 ms of a guest's flood: what overflows here is everybody's queries
TCP_BACKLOG = 64
TCP_CONNECTIONS_MAX = 256
TCP_CONNECTIONS_IPV6_MAX = 192  # a guest can connect from many IPv6 addresses, but then not for everybody
TCP_UNSENT_BYTES_MAX = 256 << 10
SWEEP_S = 1.0
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_SO_RCVBUFFORCE = 33


def bind(endpoint: Endpoint, kind: socket.SocketKind) -> socket.socket:
    """A bound, non-blocking socket on *endpoint*. Raises ServiceError that says who has the port."""
    family = socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # The gateway's address may be a moment old, or (IPv6) not yet checked for duplicates.
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            _enlarge(sock)
        sock.bind(endpoint)
        if kind == socket.SOCK_STREAM:
            sock.listen(TCP_BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(endpoint, kind, error) from None
    return sock


def _enlarge(sock: socket.socket) -> None:
    """Give *sock* a receive buffer of UDP_BUFFER_BYTES, or of net.core.rmem_max without CAP_NET_ADMIN."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, UDP_BUFFER_BYTES)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)


def _bind_error(endpoint: Endpoint, kind: socket.SocketKind, error: OSError) -> ServiceError:
    host, port = endpoint
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    fix = None
    holder = None
    if error.errno == errno.EADDRINUSE:
        holder = port_holder(endpoint, protocol)
        fix = (
            "stop that server, let it listen on its own addresses only (dnsmasq: bind-interfaces and "
            "except-interface), or turn this network's DNS off"
        )
    elif error.errno in (errno.EACCES, errno.EPERM):
        fix = "run as root or with CAP_NET_BIND_SERVICE"
    by = f": taken by {holder}" if holder else f": {error.strerror}"
    return ServiceError(
        f"DNS cannot listen on {where}/{protocol}{by}",
        fix=fix,
        service="dns",
        address=host,
        host_port=port,
        protocol=protocol,
        errno=error.errno,
        holder=holder,
    )


def port_holder(endpoint: Endpoint, protocol: str, proc: Path = Path("/proc")) -> str | None:
    """`name (pid N)` of who has *endpoint* or its port everywhere, None when /proc does not tell."""
    inodes = set()
    for table in (protocol, protocol + "6"):
        with contextlib.suppress(OSError):
            for line in (proc / "net" / table).read_text().splitlines()[1:]:
                words = line.split()
                address, _, port = words[1].partition(":")
                # TCP: only listeners (state 0A) hold a port.
                if int(port, 16) != endpoint[1] or (protocol == "tcp" and words[3] != "0A"):
                    continue
                if not int(address, 16) or address == _proc_address(endpoint[0]):
                    inodes.add(f"socket:[{words[9]}]")
    if not inodes:
        return None
    for pid in filter(str.isdigit, os.listdir(proc)):
        with contextlib.suppress(OSError):
            for fd in os.listdir(proc / pid / "fd"):
                if os.readlink(proc / pid / "fd" / fd) in inodes:
                    return f"{(proc / pid / 'comm').read_text().strip()} (pid {pid})"
    return None


def _proc_address(host: str) -> str:
    """*host* as /proc/net prints it: 32-bit words in the byte order of the machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host.partition("%")[0])
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))


def guest_of(peer: tuple[str, int]) -> bytes:
    """The packed address of a TCP peer: what limits are counted by."""
    host = peer[0].partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


class TcpListener:
    """All TCP connections of guests. *query(packet, connection)* is called with each message."""

    def __init__(
        self,
        query: Callable[[bytes, TcpConnection], None],
        count: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self.query = query
        self.count = count
        self.clock = clock
        self.connections: dict[bytes, set[TcpConnection]] = {}
        self.total = 0
        self.total_ipv6 = 0
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept on the listening *sock*, which becomes ours."""
        loop = asyncio.get_running_loop()
        self._servers.append(
            await loop.create_server(lambda: TcpConnection(self), sock=sock, backlog=TCP_BACKLOG)
        )

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for server in self._servers:
            server.close()
        for connections in list(self.connections.values()):
            for connection in list(connections):
                connection.abort()
        self._servers.clear()

    def add(self, connection: TcpConnection) -> bool:
        """Whether there is room for one more of that guest."""
        mine = self.connections.setdefault(connection.guest, set())
        is_ipv6 = len(connection.guest) == IPV6_BYTES
        if (
            len(mine) >= TCP_CONNECTIONS_PER_GUEST_MAX
            or self.total >= TCP_CONNECTIONS_MAX
            or (is_ipv6 and self.total_ipv6 >= TCP_CONNECTIONS_IPV6_MAX)
        ):
            self.count("tcp_connections_full")
            return False
        mine.add(connection)
        self.total += 1
        self.total_ipv6 += is_ipv6
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)
        return True

    def remove(self, connection: TcpConnection) -> None:
        mine = self.connections.get(connection.guest, set())
        if connection in mine:
            mine.remove(connection)
            self.total -= 1
            self.total_ipv6 -= len(connection.guest) == IPV6_BYTES
        if not mine:
            self.connections.pop(connection.guest, None)

    def _sweep(self) -> None:
        """Close the connections on which no whole message has passed for TCP_IDLE_S, longer than any lookup takes."""
        now = self.clock()
        for connections in list(self.connections.values()):
            for connection in list(connections):
                if now - connection.active_at >= TCP_IDLE_S:
                    self.count("tcp_idle")
                    connection.abort()
        again = self.total > 0
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep) if again else None


class TcpConnection(asyncio.Protocol):
    """One guest's connection: any number of messages behind a two-byte length, answered in any order."""

    guest = b""

    def __init__(self, listener: TcpListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self.unanswered = 0
        self.active_at = listener.clock()
        self._paused = False
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        self._transport = transport
        self.guest = guest_of(peer) if peer else b""
        if not self._listener.add(self):
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._listener.remove(self)
        self._transport = None
        self._received.clear()

    def eof_received(self) -> bool:
        # The guest has asked all it wants; its answers may still be on the way.
        self._finished = True
        return self.unanswered > 0

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take_messages()

    def send(self, packet: bytes) -> None:
        """Send a reply. A guest that does not read is cut off when too much waits for it."""
        self.unanswered -= 1
        self.active_at = self._listener.clock()
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() > TCP_UNSENT_BYTES_MAX:
            self._listener.count("tcp_unread")
            transport.abort()
            return
        transport.write(len(packet).to_bytes(2, "big") + packet)
        if self._finished and not self.unanswered:
            transport.close()
        elif self._paused and self.unanswered < TCP_PIPELINE_MAX // 2:
            self._paused = False
            transport.resume_reading()
            asyncio.get_running_loop().call_soon(self._take_messages)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _take_messages(self) -> None:
        received = self._received
        at = 0
        while len(received) - at >= 2 and self._transport is not None and not self._transport.is_closing():
            size = received[at] << 8 | received[at + 1]
            if size < 12:
                self._listener.count("tcp_bad_length")
                self.abort()
                return
            if len(received) - at < 2 + size:
                break
            if self.unanswered >= TCP_PIPELINE_MAX:
                self._pause()
                break
            packet = bytes(received[at + 2 : at + 2 + size])
            at += 2 + size
            self.unanswered += 1
            self.active_at = self._listener.clock()
            self._listener.query(packet, self)
        del received[:at]
        if len(received) > TCP_BYTES_MAX + 2:
            self._pause()

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
