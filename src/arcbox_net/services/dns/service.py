"""The running DNS forwarder of one network: clients, upstreams and time around `Forwarder`, which decides."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Protocol, cast

from arcbox_net.services.dns.actions import Action, Ask, Reply
from arcbox_net.services.dns.asking import Asker
from arcbox_net.services.dns.cache import AnswerCache
from arcbox_net.services.dns.forwarder import Forwarder
from arcbox_net.services.dns.names import LocalNames
from arcbox_net.services.dns.rates import RateLimiter
from arcbox_net.services.dns.resolvconf import ResolvConf
from arcbox_net.services.dns.settings import DnsSettings, Endpoint
from arcbox_net.services.placing import Placing, here

SEED_BYTES = 16

# Counts through a suspend where the platform has such a clock, so that TTLs do.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    return time.clock_gettime(_CLOCK)


class Client(Protocol):
    """Who asked, and how to answer. Two that are equal are one client that repeats itself."""

    def __hash__(self) -> int: ...
    def send(self, packet: bytes) -> None: ...


class DnsService:
    """Serves DNS from `start` to `stop`: on the settings' addresses, and for whoever hands it `datagram`s.

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
        self._settings = settings
        self._names = names
        self._cache = AnswerCache(
            settings.cache_entries_max, settings.cache_bytes_max, rng(SEED_BYTES), settings.serve_stale
        )
        self._limiter = RateLimiter(settings.queries_per_s, rng(SEED_BYTES))
        self._forwarder = Forwarder(settings, names, self._cache, rng)
        self._asker = Asker(self._upstream_packet, self._upstream_failed)
        self._sockets = None
        if settings.listen:
            from arcbox_net.services.dns.sockets import GuestSockets  # Linux's

            self._sockets = GuestSockets(settings.listen, self, self._cache, self._limiter, now, place)
        self._resolv_conf: ResolvConf | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Listen. Raises ServiceError when a port is taken; nothing is left open then."""
        self._loop = asyncio.get_running_loop()
        if self._sockets is not None:
            await self._sockets.start()
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
        if self._sockets is not None:
            await self._sockets.stop()
        self._asker.close()

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
        if self._sockets is not None:
            for reason, count in self._sockets.counts().items():
                found[reason] = found.get(reason, 0) + count
        found |= {
            "cache_entries": len(self._cache),
            "cache_bytes": self._cache.size,
            "lookups": self._forwarder.in_flight,
            "upstream_sockets": self._asker.open_sockets,
            "tcp_connections": self._sockets.tcp.total if self._sockets else 0,
        }
        return found

    # -- from guests -------------------------------------------------------------------------------

    def datagram(self, packet: bytes, client: Client, guest: bytes) -> None:
        """Take what *guest*, a packed address, sent to the gateway's port 53."""
        at = now()
        self.count("udp_received")
        if self._limiter.allow(guest, at):
            self.query(packet, client, guest, False, at)
        else:
            self.count("rate_limited")

    def query(self, packet: bytes, client: Client, guest: bytes, stream: bool, at: float) -> None:
        """Take a packet that is within its guest's rate, and that came at *at*."""
        self._act(self._forwarder.query(packet, client, guest, stream, at))
        self._set_alarm()

    def count(self, reason: str) -> None:
        self._forwarder.counts[reason] += 1

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
                cast(Client, action.client).send(action.packet)
            elif isinstance(action, Ask):
                self._asker.ask(action)
            else:
                self._asker.cancel(action.attempt)

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
