"""When a router advertises itself, and what it says (RFC 4861 section 6.2). Packets and the time in, packets out.

Theory of operation. Everything due has a time: one multicast at most, and a unicast for each guest that asked.
`alarm` says when the next is due, `due` hands out what is.

  event                            due
  start, the link came up, or the  a multicast at once, and INITIAL_MAX in all at most INITIAL_S_MAX apart
  host's default route came or went
  otherwise                        a multicast between INTERVAL_S_MIN and INTERVAL_S_MAX after the last
  a guest asks, with an address    a unicast to it within REPLY_DELAY_S_MAX
  without one, or too many ask     a multicast as soon as MULTICAST_GAP_S allows

What an advertisement says is decided when it is sent, so that a change in between is in it.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from arcbox_net.services.dhcp.rate import RateLimit
from arcbox_net.services.ra.messages import UNSPECIFIED, Advertisement, DropReason, parse_solicitation

ALL_NODES = IPv6Address("ff02::1")
# RFC 4861 sections 6.2.1 and 10.
INTERVAL_S_MAX = 600.0
INTERVAL_S_MIN = 0.33 * INTERVAL_S_MAX
INITIAL_S_MAX = 16.0
INITIAL_MAX = 3
MULTICAST_GAP_S = 3.0
ROUTER_S = 3 * int(INTERVAL_S_MAX)
DNS_S = 3 * int(INTERVAL_S_MAX)  # RFC 8106 section 5.1
PREFIX_VALID_S = 30 * 86400
PREFIX_PREFERRED_S = 7 * 86400
# RFC 4861 allows half a second, for routers that would answer all at once. This link has one.
REPLY_DELAY_S_MAX = 0.02
REPLIES_PER_GUEST_S = 1.0
REPLIES_PER_S = 50.0
REPLIES_PENDING_MAX = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RaSettings:
    """One network's link. `mac`: of its bridge. `dns` and `search` as DHCP tells them."""

    subnet: IPv6Network
    mac: bytes
    mtu: int
    dns: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()


class Packet(NamedTuple):
    """An ICMPv6 message and where it goes."""

    payload: bytes
    destination: IPv6Address


class RaServer:
    """`rng` gives numbers of [0, 1); `default_router` whether guests get a default route."""

    def __init__(
        self, settings: RaSettings, rng: Callable[[], float], now: float, *, default_router: bool = False
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._default_router = default_router
        self._initial_left = INITIAL_MAX
        self._multicast_at = now
        self._multicast_last = now - MULTICAST_GAP_S
        self._unicasts: dict[IPv6Address, float] = {}
        self._each = RateLimit(REPLIES_PER_GUEST_S)
        self._all = RateLimit(REPLIES_PER_S)
        self._counts: collections.Counter[str] = collections.Counter()

    @property
    def default_router(self) -> bool:
        return self._default_router

    def set_default_router(self, is_one: bool, now: float) -> None:
        """The host got or lost its own default route: guests are told without delay."""
        if is_one == self._default_router:
            return
        self._default_router = is_one
        self._begin_anew(now)

    def link_came_up(self, now: float) -> None:
        """The first guest is there. What it asked before the link was ready for multicast, nobody heard."""
        self._begin_anew(now)

    def handle(self, packet: bytes, source: IPv6Address, hop_limit: int, now: float) -> None:
        """Take what a guest sent. What it leads to comes from `due`."""
        found = parse_solicitation(packet, source, hop_limit, self._settings.subnet)
        if isinstance(found, DropReason):
            self.dropped(found)
            return
        self._counts["solicitations"] += 1
        if found.source in self._unicasts:
            return
        at = now + self._rng() * REPLY_DELAY_S_MAX
        if found.source == UNSPECIFIED:
            self._multicast_soon(at)
        elif not self._each.take(found.source, now):
            self.dropped(DropReason.RATE)
        elif len(self._unicasts) >= REPLIES_PENDING_MAX or not self._all.take("all", now):
            self._multicast_soon(at)
        else:
            self._unicasts[found.source] = at

    def alarm(self) -> float:
        """When `due` has something next."""
        return min(self._multicast_at, *self._unicasts.values()) if self._unicasts else self._multicast_at

    def due(self, now: float) -> list[Packet]:
        """What is to be sent now."""
        ready = [guest for guest, at in self._unicasts.items() if at <= now]
        is_multicast_due = self._multicast_at <= now
        if not ready and not is_multicast_due:
            return []
        payload = self._encode(self._default_router)
        for guest in ready:
            del self._unicasts[guest]
        packets = [Packet(payload, guest) for guest in ready]
        if is_multicast_due:
            packets.append(Packet(payload, ALL_NODES))
            self._multicast_last = now
            self._multicast_at = now + self._interval()
        return packets

    def final(self) -> Packet:
        """The last advertisement: this is no router any more, and no DNS server (RFC 4861 section 6.2.5)."""
        return Packet(self._encode(False, dns_s=0), ALL_NODES)

    def sent(self, packet: Packet) -> None:
        self._counts["multicasts" if packet.destination == ALL_NODES else "unicasts"] += 1

    def unsent(self, packet: Packet) -> None:
        """*packet* could not be sent: nobody is tired of multicasts yet."""
        self.dropped(DropReason.SEND)
        if packet.destination == ALL_NODES:
            self._multicast_last = -math.inf

    def dropped(self, reason: DropReason) -> None:
        self._counts[f"drop_{reason.value}"] += 1

    def stats(self) -> dict[str, int]:
        return dict(self._counts)

    def _begin_anew(self, now: float) -> None:
        self._initial_left = INITIAL_MAX
        self._multicast_soon(now)

    def _multicast_soon(self, at: float) -> None:
        self._multicast_at = min(self._multicast_at, max(at, self._multicast_last + MULTICAST_GAP_S))

    def _interval(self) -> float:
        interval = INTERVAL_S_MIN + self._rng() * (INTERVAL_S_MAX - INTERVAL_S_MIN)
        if self._initial_left > 1:
            self._initial_left -= 1
            return min(interval, INITIAL_S_MAX)
        return interval

    def _encode(self, is_default_router: bool, *, dns_s: int = DNS_S) -> bytes:
        settings = self._settings
        return Advertisement(
            router_s=ROUTER_S if is_default_router else 0,
            mac=settings.mac,
            mtu=settings.mtu,
            prefix=settings.subnet,
            prefix_valid_s=PREFIX_VALID_S,
            prefix_preferred_s=PREFIX_PREFERRED_S,
            dns=settings.dns,
            search=settings.search,
            dns_s=dns_s,
        ).encode()
