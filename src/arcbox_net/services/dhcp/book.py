"""The book of addresses: what each one is now, what of it is on the disk, and when it ends. No I/O, no clock.

`leases` decides who gets an address; here is the one place where an address changes hands. Every change is in force
for the next request at once and must be settled by its caller: `committed` when it is on the disk, `failed` when it
is not, which goes back to what is there. Of several changes of one address under way the last decides.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

from arcbox_net.addresses import IpAllocator, format_mac
from arcbox_net.errors import PoolExhausted
from arcbox_net.services.dhcp.records import (
    BOUND,
    DECLINED,
    IDLE,
    OFFERED,
    POOL,
    RELEASED,
    RESERVED,
    Clock,
    Lease,
    LeaseChange,
)
from arcbox_net.services.dhcp.settings import DhcpSettings

OFFER_S = 30.0
REUSE_AFTER_S = 10.0  # a client counts its lease from when the ACK arrived, a little later than we do
ENDS_SLACK = 64


class Client(NamedTuple):
    """Who asks. `identity` is what a pool address is bound to."""

    identity: bytes
    mac: bytes
    client_id: bytes | None
    port: str | None


class Offer(NamedTuple):
    ip: int
    until: float
    port: str | None
    reused: bool  # it was another client's: worth asking on the wire whether it still answers


class LeaseBook:
    """Addresses are integers inside, IPv4Address outside."""

    def __init__(self, settings: DhcpSettings, leases: Iterable[Lease] = (), *, now: Clock) -> None:
        self._settings = settings
        self._allocator = IpAllocator(*settings.pool)
        self._first, self._last = int(settings.pool[0]), int(settings.pool[1])
        self._leases: dict[int, Lease] = {}
        self._durable: dict[int, Lease] = {}
        self._unsettled: dict[int, int] = {}
        self._doubtful: set[int] = set()
        self._by_identity: dict[bytes, int] = {}
        self._fixed: dict[bytes, int] = {}
        self._kept: dict[int, None] = {}
        self._offers: dict[bytes, Offer] = {}
        self._offered: dict[int, bytes] = {}
        self._live_by_port: dict[str, set[int]] = {}
        self._ends: list[tuple[float, int]] = []
        self._others: set[IPv4Address] = set()
        self._allocator.take(settings.gateway, "the gateway")
        self._load(leases, now)

    def address_of(self, client: Client) -> int | None:
        """The address that is this client's: fixed for its MAC, or bound to its identity (ended ones too)."""
        fixed = self._fixed.get(client.mac)
        return fixed if fixed is not None else self._by_identity.get(client.identity)

    def holder(self, ip: IPv4Address) -> str | None:
        """Who has *ip*, as an error names it, None when it is free."""
        return self._allocator.holder(ip)

    def keep_off(self, others: Collection[IPv4Address]) -> None:
        """Give nobody what another server gave to somebody: *others*. What is held here stays with who has it."""
        for ip in self._others.difference(others):
            self._others.discard(ip)
            self._allocator.release(ip)
        for ip in others:
            if self._allocator.holder(ip) is None:
                self._others.add(ip)
                self._allocator.take(ip, "a client of another DHCP server")

    @property
    def available(self) -> int:
        """Addresses of the pool that a new client can get."""
        return self._allocator.available + sum(self._first <= ip <= self._last for ip in self._kept)

    def view(self, now: Clock) -> list[Lease]:
        """What has an owner now, offers included, by address."""
        found = {
            ip: lease
            for ip, lease in self._leases.items()
            if lease.kind != POOL
            or lease.is_bound(now)
            or (lease.state == DECLINED and (lease.expires_s(now) or 0) > 0)
        }
        for identity, offer in self._offers.items():
            if offer.until > now.mono and offer.ip not in found:
                left = offer.until - now.mono
                found[offer.ip] = Lease(
                    IPv4Address(offer.ip),
                    state=OFFERED,
                    identity=identity,
                    port=offer.port,
                    expires_wall=now.wall + left,
                    expires_mono=offer.until,
                    boot=now.boot,
                )
        return [found[ip] for ip in sorted(found)]

    def durable(self, ip: int) -> Lease | None:
        """The lease of *ip* as it is on the disk."""
        return self._durable.get(ip)

    def doubtful(self) -> list[LeaseChange]:
        """Rows that a failed write may have left wrong: to be written again with the next one."""
        return [LeaseChange(IPv4Address(ip), self._durable.get(ip)) for ip in sorted(self._doubtful)]

    def committed(self, changes: Sequence[LeaseChange]) -> None:
        """*changes*, and what `doubtful` listed before, are on the disk."""
        self._doubtful.clear()
        for change in changes:
            for freed in change.frees:
                self._durable.pop(int(freed), None)
                self._settle(int(freed))
            if change.lease is None:
                self._durable.pop(int(change.ip), None)
            else:
                self._durable[int(change.ip)] = change.lease
            self._settle(int(change.ip))

    def failed(self, changes: Sequence[LeaseChange], now: Clock) -> None:
        """*changes* are not on the disk: their addresses go back to what is."""
        for change in changes:
            for ip in (*map(int, change.frees), int(change.ip)):
                self._doubtful.add(ip)
                if self._settle(ip):
                    self._restore(ip, now)

    def expire_offers(self, now: Clock) -> None:
        while self._offers:
            identity, offer = next(iter(self._offers.items()))
            if offer.until > now.mono:
                break
            self._drop_offer(identity)

    def expire(self, now: Clock) -> list[Lease]:
        """End what is over at *now*; return the leases whose client has lost its address."""
        self.expire_offers(now)
        ended = []
        while self._ends and self._ends[0][0] <= now.mono:
            mono, ip = heapq.heappop(self._ends)
            lease = self._leases.get(ip)
            if lease is None or lease.expires_mono != mono:
                continue
            if lease.state == BOUND:
                ended.append(lease)
            if lease.state == DECLINED:
                self._set(ip, None, now)
            elif lease.kind == POOL:
                self._retire(ip, lease)
        return ended

    def _settle(self, ip: int) -> bool:
        """Count one change of *ip* as done; True when none is under way any more."""
        left = self._unsettled.get(ip, 0) - 1
        if left > 0:
            self._unsettled[ip] = left
            return False
        self._unsettled.pop(ip, None)
        return True

    def _restore(self, ip: int, now: Clock) -> None:
        lease = self._durable.get(ip)
        if lease is not None and lease.kind == POOL and self._by_identity.get(lease.identity, ip) != ip:
            lease = None  # the client has another address by now
        if lease is not None and lease.kind != POOL and self._fixed.get(lease.mac or b"", ip) != ip:
            lease = None
        if lease is not None and lease.state == DECLINED and (lease.expires_s(now) or 0) <= 0:
            lease = None
        if ip in self._offered and lease is not None:
            self._drop_offer(self._offered[ip])
        self._set(ip, lease, now)

    def _change(self, ip: int, lease: Lease | None, now: Clock, frees: tuple[int, ...] = ()) -> LeaseChange:
        ended: tuple[Lease, ...] = ()
        for freed in frees:
            before = self._leases.get(freed)
            if before is not None and before.is_bound(now):
                ended += (before,)
            self._set(freed, None, now)
            self._unsettled[freed] = self._unsettled.get(freed, 0) + 1
        before = self._leases.get(ip)
        was_bound = before is not None and before.is_bound(now)
        bound = lease is not None and lease.is_bound(now)
        renamed = before is None or lease is None or before.hostname != lease.hostname
        if before is not None and was_bound and (not bound or renamed):
            ended += (before,)
        self._set(ip, lease, now)
        self._unsettled[ip] = self._unsettled.get(ip, 0) + 1
        address = lease.ip if lease is not None else IPv4Address(ip)
        return LeaseChange(
            address, lease, tuple(map(IPv4Address, frees)), ended, bound and (renamed or not was_bound)
        )

    def _set(self, ip: int, lease: Lease | None, now: Clock) -> None:
        old = self._leases.pop(ip, None)
        if old is not None:
            if self._by_identity.get(old.identity) == ip:
                del self._by_identity[old.identity]
            if old.mac is not None and self._fixed.get(old.mac) == ip:
                del self._fixed[old.mac]
            self._kept.pop(ip, None)
            self._uncount(old.port, ip)
        address = lease.ip if lease is not None else IPv4Address(ip)
        if self._allocator.holder(address) is not None and ip not in self._offered:
            self._allocator.release(address)
        if lease is None:
            return
        self._leases[ip] = lease
        if ip not in self._offered:
            self._allocator.take(address, _holder(lease))
        if lease.kind != POOL:
            if lease.mac is not None:
                self._fixed[lease.mac] = ip
        elif lease.state != DECLINED:
            self._by_identity[lease.identity] = ip
        if lease.expires_mono is None:
            return
        if lease.kind != POOL or (lease.state in (BOUND, DECLINED) and lease.expires_mono > now.mono):
            if lease.kind == POOL:
                self._count(lease.port, ip)
            if lease.state != IDLE:
                self._push_end(lease.expires_mono, ip)
        else:
            self._retire(ip, lease)

    def _push_end(self, mono: float, ip: int) -> None:
        """Renewals leave their earlier end behind; those are swept out before they outnumber the leases."""
        heapq.heappush(self._ends, (mono, ip))
        if len(self._ends) > 4 * len(self._leases) + ENDS_SLACK:
            self._ends = [
                (lease.expires_mono, value)
                for value, lease in self._leases.items()
                if lease.expires_mono is not None
                and lease.state in (BOUND, DECLINED)
                and value not in self._kept
            ]
            heapq.heapify(self._ends)

    def _retire(self, ip: int, lease: Lease) -> None:
        """Keep an ended lease for its client, the last to be given to another."""
        if ip not in self._offered:
            self._uncount(lease.port, ip)
            self._kept[ip] = None

    def _hold(self, client: Client, ip: int, reused: bool, now: Clock) -> Offer:
        """Offers are kept in the order of their end, which a repeated one moves."""
        offer = Offer(ip, now.mono + OFFER_S, client.port, reused)
        self._offers.pop(client.identity, None)
        self._offers[client.identity] = offer
        self._offered[ip] = client.identity
        self._kept.pop(ip, None)
        self._count(client.port, ip)
        return offer

    def _drop_offer(self, identity: bytes) -> None:
        offer = self._offers.pop(identity, None)
        if offer is None:
            return
        del self._offered[offer.ip]
        self._uncount(offer.port, offer.ip)
        lease = self._leases.get(offer.ip)
        if lease is None:
            self._allocator.release(IPv4Address(offer.ip))
        else:
            self._kept[offer.ip] = None

    def _next_address(self, holder: str, now: Clock) -> tuple[int, bool]:
        """Take a free address, or the one whose client has been gone longest. Raises PoolExhausted."""
        try:
            return int(self._allocator.take_any(holder)), False
        except PoolExhausted:
            for ip in self._kept:
                lease = self._leases[ip]
                gone_s = -(lease.expires_s(now) or 0.0)
                if self._first <= ip <= self._last and (lease.state == RELEASED or gone_s >= REUSE_AFTER_S):
                    self._set(ip, None, now)
                    self._allocator.take(IPv4Address(ip), holder)
                    return ip, True
                if gone_s < REUSE_AFTER_S and lease.state != RELEASED:
                    break
            raise

    def _is_free(self, ip: int) -> bool:
        return self._first <= ip <= self._last and self._allocator.holder(IPv4Address(ip)) is None

    def _at_port_limit(self, port: str | None) -> bool:
        if port is None:
            return False
        return len(self._live_by_port.get(port, ())) >= self._settings.addresses_per_port_max

    def _count(self, port: str | None, ip: int) -> None:
        if port is not None:
            self._live_by_port.setdefault(port, set()).add(ip)

    def _uncount(self, port: str | None, ip: int) -> None:
        live = self._live_by_port.get(port) if port is not None else None
        if live is not None and port is not None:
            live.discard(ip)
            if not live:
                del self._live_by_port[port]

    def _load(self, leases: Iterable[Lease], now: Clock) -> None:
        """Take over what the disk has, except what no longer fits the subnet or contradicts a later lease."""
        rebased = sorted(
            (_rebase(lease, now) for lease in leases), key=lambda lease: lease.expires_mono or 0.0
        )
        for lease in reversed(rebased):
            ip = int(lease.ip)
            over = lease.expires_mono is not None and lease.expires_mono <= now.mono
            usable = lease.ip in self._settings.subnet and lease.ip != self._settings.gateway
            if lease.kind == POOL:
                usable = usable and not (
                    over and (lease.state == DECLINED or not self._first <= ip <= self._last)
                )
                usable = usable and (lease.state == DECLINED or lease.identity not in self._by_identity)
            else:
                usable = usable and lease.mac not in self._fixed
            if usable:
                self._durable[ip] = lease
                self._set(ip, lease, now)
        # `_set` ran from the latest end to the earliest; the kept are given away from the earliest.
        self._kept = dict.fromkeys(reversed(self._kept))


def _holder(lease: Lease) -> str:
    if lease.holder is not None:
        return lease.holder
    if lease.mac is None:
        return lease.kind
    if lease.kind == RESERVED:
        return f"the reservation of {format_mac(lease.mac)}"
    return "a declined address" if lease.state == DECLINED else f"the DHCP client {format_mac(lease.mac)}"


def _rebase(lease: Lease, now: Clock) -> Lease:
    """The lease with its end on this boot's clock. After a reboot the wall clock counts, up to a whole lease."""
    if lease.expires_mono is None or lease.expires_wall is None or (lease.boot == now.boot and now.boot):
        return lease
    left = min(lease.expires_wall - now.wall, float(lease.lease_s))
    return dataclasses.replace(
        lease, expires_wall=now.wall + left, expires_mono=now.mono + left, boot=now.boot
    )
