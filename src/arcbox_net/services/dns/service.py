"""The running DNS forwarder of one network: sockets and time around `Forwarder`, which decides."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Hashable

from arcbox_net.services.dns.actions import Action, Ask, Reply
from arcbox_net.services.dns.asking import Asker
from arcbox_net.services.dns.cache import AnswerCache
from arcbox_net.services.dns.forwarder import Forwarder
from arcbox_net.services.dns.hotpath import HotPath
from arcbox_net.services.dns.listener import TcpConnection, TcpListener, bind
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.rates import RateLimiter
from arcbox_net.services.dns.resolvconf import ResolvConf
from arcbox_net.services.dns.settings import TCP_BYTES_MAX, DnsSettings, Endpoint
from arcbox_net.services.placing import Placing, here

BURST_MAX = 64  # as in hotpath.pyx
BURSTS_PER_WAKE_MAX = 8
SEED_BYTES = 16

# Counts through a suspend where the platform has such a clock, so that TTLs do.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    return time.clock_gettime(_CLOCK)


class DnsService:
    """Serves DNS on the settings' addresses from `start` to `stop`.

    `place` makes the listening sockets; upstreams are asked from the event loop's own network namespace.
    """

    def __init__(
        self,
        settings: DnsSettings,
        names: LocalNames,
        *,
        rng: Callable[[int], bytes] | None = None,
        place: Placing = here,
    ) -> None:
        rng = rng or os.urandom
        self._place = place
        self._settings = settings
        self._names = names
        self._cache = AnswerCache(
            settings.cache_entries_max, settings.cache_bytes_max, rng(SEED_BYTES), settings.serve_stale
        )
        self._limiter = RateLimiter(settings.queries_per_s, rng(SEED_BYTES))
        self._hot = HotPath(self._cache, self._limiter)
        self._forwarder = Forwarder(settings, names, self._cache, rng)
        self._asker = Asker(self._upstream_packet, self._upstream_failed)
        self._tcp = TcpListener(self._tcp_query, self._count, now)
        self._udp: list[socket.socket] = []
        self._resolv_conf: ResolvConf | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Listen. Raises ServiceError when a port is taken; nothing is left open then."""
        self._loop = asyncio.get_running_loop()
        self._udp, streams = await self._place(self._bind_all)
        for sock in streams:
            await self._tcp.start(sock)
        for sock in self._udp:
            self._loop.add_reader(sock.fileno(), self._readable, sock.fileno())
        if self._settings.recursion and not self._settings.upstreams:
            self._resolv_conf = ResolvConf(self._settings.resolv_conf, self._upstreams_changed)
            self._resolv_conf.start()
        self._names.on_change = self._name_changed

    async def stop(self) -> None:
        """Close everything. Those who wait for an answer get none."""
        self._names.on_change = None
        if self._resolv_conf is not None:
            self._resolv_conf.stop()
            self._resolv_conf = None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for sock in self._udp:
            assert self._loop is not None
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._udp.clear()
        await self._tcp.stop()
        self._asker.close()

    def _bind_all(self) -> tuple[list[socket.socket], list[socket.socket]]:
        datagrams: list[socket.socket] = []
        streams: list[socket.socket] = []
        try:
            for endpoint in self._settings.listen:
                datagrams.append(bind(endpoint, socket.SOCK_DGRAM))
                streams.append(bind(endpoint, socket.SOCK_STREAM))
        except BaseException:
            for sock in [*datagrams, *streams]:
                sock.close()
            raise
        return datagrams, streams

    @property
    def upstreams(self) -> list[str]:
        """Who is asked, in order."""
        return [str(upstream) for upstream in self._forwarder.upstreams]

    def flush(self) -> None:
        """Forget all answers of upstreams."""
        self._forwarder.flush()

    def stats(self) -> dict[str, int]:
        """What happened how often, by reason, and what is held now."""
        found = dict(self._forwarder.counts)
        for reason, count in self._hot.counts().items():
            found[reason] = found.get(reason, 0) + count
        found |= {
            "cache_entries": len(self._cache),
            "cache_bytes": self._cache.size,
            "lookups": self._forwarder.in_flight,
            "upstream_sockets": self._asker.open_sockets,
            "tcp_connections": self._tcp.total,
        }
        return found

    # -- from guests -------------------------------------------------------------------------------

    def _readable(self, fd: int) -> None:
        hot = self._hot
        query = self._forwarder.query
        for _ in range(BURSTS_PER_WAKE_MAX):
            at = now()
            for packet, address, guest in hot.serve(fd, at):
                self._act(query(packet, (fd, address), guest, False, at))
            if hot.received < BURST_MAX:
                break
        self._set_alarm()

    def _tcp_query(self, packet: bytes, connection: TcpConnection) -> None:
        at = now()
        if not self._limiter.allow(connection.guest, at):
            self._count("tcp_rate_limited")
            connection.abort()
            return
        reply = self._hot.answer(packet, TCP_BYTES_MAX, at)
        if reply is not None:
            connection.send(reply)
            return
        actions = self._forwarder.query(packet, connection, connection.guest, True, at)
        self._act(actions)
        self._set_alarm()

    # -- from upstreams ----------------------------------------------------------------------------

    def _upstream_packet(self, attempt: int, packet: bytes) -> None:
        self._act(self._forwarder.upstream_packet(attempt, packet, now()))
        self._set_alarm()

    def _upstream_failed(self, attempt: int, reason: str) -> None:
        self._act(self._forwarder.upstream_failed(attempt, reason, now()))
        self._set_alarm()

    def _upstreams_changed(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._forwarder.set_upstreams(endpoints)

    def _name_changed(self, name: str) -> None:
        # Names without a dot and those in our domain never come from upstreams.
        if "." in name:
            self._forwarder.flush()

    # -- actions and time --------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Reply):
                self._reply(action.client, action.packet)
            elif isinstance(action, Ask):
                self._asker.ask(action)
            else:
                self._asker.cancel(action.attempt)

    def _reply(self, client: Hashable, packet: bytes) -> None:
        if isinstance(client, TcpConnection):
            client.send(packet)
        else:
            assert isinstance(client, tuple)
            self._hot.send(client[0], client[1], packet)

    def _set_alarm(self) -> None:
        due = self._forwarder.next_alarm()
        if due is None or (self._alarm is not None and self._alarm_at <= due):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        assert self._loop is not None
        self._alarm_at = due
        self._alarm = self._loop.call_later(max(0.0, due - now()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._act(self._forwarder.alarm(now()))
        self._set_alarm()

    def _count(self, reason: str) -> None:
        self._forwarder.counts[reason] += 1
