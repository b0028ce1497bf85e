"""The sockets of the kernel on which guests reach the forwarder, and what is answered there without it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from arcbox_net.services.dns.hotpath import HotPath
from arcbox_net.services.dns.listener import TcpConnection, TcpListener, bind
from arcbox_net.services.dns.settings import TCP_BYTES_MAX

if TYPE_CHECKING:
    from arcbox_net.services.dns.cache import AnswerCache
    from arcbox_net.services.dns.rates import RateLimiter
    from arcbox_net.services.dns.service import DnsService
    from arcbox_net.services.dns.settings import Endpoint
    from arcbox_net.services.placing import Placing

BURST_MAX = 64  # as in hotpath.pyx
BURSTS_PER_WAKE_MAX = 8


class UdpClient(NamedTuple):
    hot: HotPath
    fd: int
    address: bytes

    def send(self, packet: bytes) -> None:
        self.hot.send(self.fd, self.address, packet)


class GuestSockets:
    """Sockets for UDP and TCP on each of *listen*, which `place` makes. What the cache has is answered here."""

    def __init__(
        self,
        listen: tuple[Endpoint, ...],
        service: DnsService,
        cache: AnswerCache,
        limiter: RateLimiter,
        clock: Callable[[], float],
        place: Placing,
    ) -> None:
        self._listen = listen
        self._service = service
        self._limiter = limiter
        self._clock = clock
        self._place = place
        self._hot = HotPath(cache, limiter)
        self._udp: list[socket.socket] = []
        self.tcp = TcpListener(self._tcp_query, service.count, clock)

    async def start(self) -> None:
        """Raises ServiceError when a port is taken; nothing is left open then."""
        self._udp, streams = await self._place(self._bind_all)
        for sock in streams:
            await self.tcp.start(sock)
        for sock in self._udp:
            asyncio.get_running_loop().add_reader(sock.fileno(), self._readable, sock.fileno())

    async def stop(self) -> None:
        for sock in self._udp:
            asyncio.get_running_loop().remove_reader(sock.fileno())
            sock.close()
        self._udp.clear()
        await self.tcp.stop()

    def counts(self) -> dict[str, int]:
        return self._hot.counts()

    def _bind_all(self) -> tuple[list[socket.socket], list[socket.socket]]:
        datagrams: list[socket.socket] = []
        streams: list[socket.socket] = []
        try:
            for endpoint in self._listen:
                datagrams.append(bind(endpoint, socket.SOCK_DGRAM))
                streams.append(bind(endpoint, socket.SOCK_STREAM))
        except BaseException:
            for sock in [*datagrams, *streams]:
                sock.close()
            raise
        return datagrams, streams

    def _readable(self, fd: int) -> None:
        hot = self._hot
        query = self._service.query
        for _ in range(BURSTS_PER_WAKE_MAX):
            at = self._clock()
            for packet, address, guest in hot.serve(fd, at):
                query(packet, UdpClient(hot, fd, address), guest, False, at)
            if hot.received < BURST_MAX:
                break

    def _tcp_query(self, packet: bytes, connection: TcpConnection) -> None:
        at = self._clock()
        if not self._limiter.allow(connection.guest, at):
            self._service.count("tcp_rate_limited")
            connection.abort()
            return
        reply = self._hot.answer(packet, TCP_BYTES_MAX, at)
        if reply is not None:
            connection.send(reply)
            return
        self._service.query(packet, connection, connection.guest, True, at)
