"""Who has which address: DHCP clients, reservations, and what programs and ports allocate. No I/O, no clock.

Theory of operation
    An address of the pool is free, offered (in memory, OFFER_S), or has a Lease. A pool lease is bound until
    it ends; after its end or a release it is kept for its client, and given to another, oldest first, only
    when nothing is free. A reserved or allocated lease with a MAC is that MAC's, whatever client-id it sends.

        free ──offer──► offered ──bind──► bound ──end, release──► kept ──bind (same client)──► bound
                           │                │                       └──offer (pool exhausted)──► offered
                           └────decline─────┴──► declined ──DECLINE_S──► free

    Every method that changes something returns the LeaseChange; see `book` for how it becomes durable.
"""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address

from arcbox_net.addresses import format_mac
from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError, PoolExhausted
from arcbox_net.services.dhcp.book import Client, LeaseBook, Offer
from arcbox_net.services.dhcp.messages import DropReason
from arcbox_net.services.dhcp.records import (
    ALLOCATED,
    BOUND,
    DECLINED,
    IDLE,
    POOL,
    RELEASED,
    RESERVED,
    Clock,
    Lease,
    LeaseChange,
)

__all__ = ["Client", "LeaseTable", "Offer"]

DECLINE_S = 600.0
FRESH_S = 1.0


class LeaseTable(LeaseBook):
    """Who gets which address. The book beneath it keeps what was decided."""

    # What a DHCP client does

    def offer(self, client: Client, wanted: int, now: Clock) -> Offer | DropReason:
        """The address to offer: its own, else *wanted* if that is free, else the next. Held for OFFER_S."""
        fixed = self._fixed.get(client.mac)
        if fixed is not None:
            return Offer(fixed, now.mono, client.port, False)
        held = self._offers.get(client.identity)
        if held is not None:
            return self._hold(client, held.ip, held.reused, now)
        own = self._by_identity.get(client.identity)
        if own is not None and self._leases[own].is_bound(now):
            return Offer(own, now.mono, client.port, False)
        if self._at_port_limit(client.port):
            return DropReason.PORT_LIMIT
        if own is not None:
            return self._hold(client, own, False, now)
        if self._is_free(wanted):
            self._allocator.take(IPv4Address(wanted), "an offer")
            return self._hold(client, wanted, False, now)
        try:
            ip, reused = self._next_address("an offer", now)
        except PoolExhausted:
            return DropReason.POOL_EXHAUSTED
        return self._hold(client, ip, reused, now)

    def withdraw(self, client: Client) -> None:
        """The client took another server's offer."""
        self._drop_offer(client.identity)

    def bind(
        self, client: Client, ip: int, lease_s: int, hostname: str | None, now: Clock
    ) -> LeaseChange | DropReason:
        """Give *ip* to the client for *lease_s*. BAD_ADDRESS: it cannot have that one."""
        fixed = self._fixed.get(client.mac)
        if fixed is not None:
            return (
                self._bind_fixed(client, ip, lease_s, hostname, now)
                if ip == fixed
                else DropReason.BAD_ADDRESS
            )
        lease = self._leases.get(ip)
        holder = self._offered.get(ip)
        own = self._by_identity.get(client.identity, ip)
        mine = lease is not None and lease.kind == POOL and lease.identity == client.identity
        if own != ip or holder not in (None, client.identity) or (lease is not None and not mine):
            return DropReason.BAD_ADDRESS
        if lease is None and holder is None and not self._is_free(ip):
            return DropReason.BAD_ADDRESS
        live = holder is not None or (lease is not None and lease.is_bound(now))
        if not live and self._at_port_limit(client.port):
            return DropReason.PORT_LIMIT
        self._drop_offer(client.identity)
        bound = Lease(
            lease.ip if lease is not None else IPv4Address(ip),
            POOL,
            BOUND,
            client.identity,
            client.mac,
            client.client_id,
            hostname,
            False,
            client.port,
            None,
            lease_s,
            now.wall + lease_s,
            now.mono + lease_s,
            now.boot,
        )
        return self._change(ip, bound, now)

    def fresh(self, client: Client, ip: int, lease_s: int, hostname: str | None, now: Clock) -> Lease | None:
        """The lease that `bind` would make, if the disk has it already: bound less than FRESH_S ago.

        So a repeated REQUEST is answered at once, and a guest that repeats it wears out no disk. What the client
        may think it has longer than the disk says is less than REUSE_AFTER_S.
        """
        lease = self._leases.get(ip)
        if lease is None or lease.expires_mono is None or lease.lease_s != lease_s or lease.state != BOUND:
            return None
        if lease.identity != client.identity or lease.mac != client.mac or now.mono >= lease.expires_mono:
            return None
        if now.mono + lease_s - lease.expires_mono >= FRESH_S or self._durable.get(ip) is not lease:
            return None
        if ip in self._unsettled or self.address_of(client) != ip:
            return None
        return lease if lease.named or lease.hostname == hostname else None

    def release_by(self, client: Client, ip: int, now: Clock) -> LeaseChange | None:
        """The client gives *ip* back. None: it does not have it."""
        lease = self._leases.get(ip)
        if lease is None or self.address_of(client) != ip or not lease.is_bound(now):
            return None
        if lease.kind == POOL:
            ended = dataclasses.replace(lease, state=RELEASED, expires_wall=now.wall, expires_mono=now.mono)
        else:
            ended = _idle(lease)
        return self._change(ip, ended, now)

    def decline_by(self, client: Client, ip: int, now: Clock) -> LeaseChange | None:
        """Somebody else answers on *ip*: nobody gets it for DECLINE_S. None: the client does not have it.

        A fixed address is not put away: only its owner can get it, so that would help nobody.
        """
        lease = self._leases.get(ip)
        has = self._offered.get(ip) == client.identity or (
            lease is not None
            and lease.kind == POOL
            and lease.state == BOUND
            and lease.identity == client.identity
        )
        return self._quarantine(client, ip, now) if has else None

    def conflict(self, client: Client, ip: int, now: Clock) -> LeaseChange | None:
        """A probe found somebody on an address while it was offered to *client*."""
        return self._quarantine(client, ip, now) if self._offered.get(ip) == client.identity else None

    def _bind_fixed(
        self, client: Client, ip: int, lease_s: int, hostname: str | None, now: Clock
    ) -> LeaseChange:
        lease = self._leases[ip]
        bound = dataclasses.replace(
            lease,
            state=BOUND,
            identity=client.identity,
            client_id=client.client_id,
            hostname=lease.hostname if lease.named else hostname,
            lease_s=lease_s,
            expires_wall=now.wall + lease_s,
            expires_mono=now.mono + lease_s,
            boot=now.boot,
        )
        self._drop_offer(client.identity)
        before = self._by_identity.get(client.identity)
        return self._change(ip, bound, now, frees=(before,) if before is not None else ())

    def _quarantine(self, client: Client, ip: int, now: Clock) -> LeaseChange:
        self._drop_offer(client.identity)
        declined = Lease(
            IPv4Address(ip),
            state=DECLINED,
            mac=client.mac,
            port=client.port,
            lease_s=int(DECLINE_S),
            expires_wall=now.wall + DECLINE_S,
            expires_mono=now.mono + DECLINE_S,
            boot=now.boot,
        )
        return self._change(ip, declined, now)

    # What a program or the configuration does

    def allocate(
        self,
        holder: str,
        *,
        mac: bytes | None = None,
        ip: IPv4Address | None = None,
        hostname: str | None = None,
        port: str | None = None,
        now: Clock,
    ) -> LeaseChange:
        """Give *holder* an address that lasts until `release`: *ip*, or what its MAC had, or the next free one.

        With a MAC it is that MAC's for DHCP as well. Raises AddressInUse, PoolExhausted, ConfigError.
        """
        before = self._leases.get(self._fixed.get(mac, -1)) if mac is not None else None
        if before is not None and before.kind == RESERVED and ip not in (None, before.ip):
            raise AddressInUse(
                f"{format_mac(mac or b'')} has {before.ip} reserved",
                fix="release that reservation, or ask for its address",
                address=str(before.ip),
                holder=format_mac(mac or b""),
            )
        if before is not None and before.kind == ALLOCATED and before.holder != holder:
            raise _allocated_already(before)
        if ip is None:
            ip = before.ip if before is not None else self._had(mac)
        if ip is not None:
            self._check_takable(ip, mac, holder)
            value = int(ip)
        else:
            value, _ = self._next_address(holder, now)
        if before is not None and before.ip == ip:
            changed = dataclasses.replace(before, holder=holder, port=port)
            if hostname is not None:
                changed = dataclasses.replace(changed, hostname=hostname, named=True)
            return self._change(value, changed, now)
        return self._fix(value, ALLOCATED, mac, holder, hostname, port, now)

    def reserve(self, mac: bytes, ip: IPv4Address, hostname: str | None, now: Clock) -> LeaseChange:
        """From now on *ip* is this MAC's, inside the pool or not. Raises AddressInUse, ConfigError."""
        self._check_takable(ip, mac, None)
        before = self._leases.get(self._fixed.get(mac, -1))
        if before is not None and before.kind == ALLOCATED and before.ip != ip:
            raise _allocated_already(before)
        holder, port = (before.holder, before.port) if before is not None else (None, None)
        return self._fix(int(ip), RESERVED, mac, holder, hostname, port, now)

    def unreserve(self, ip: IPv4Address, now: Clock) -> LeaseChange:
        """End a reservation. A client bound to it keeps it until its lease ends. Raises AddressNotFound."""
        lease = self._leases.get(int(ip))
        if lease is None or lease.kind != RESERVED:
            raise AddressNotFound(f"{ip} is not reserved", address=str(ip))
        after = None
        if lease.holder is not None:
            after = dataclasses.replace(lease, kind=ALLOCATED)
        elif lease.is_bound(now):
            after = dataclasses.replace(lease, kind=POOL, named=False)
        return self._change(int(ip), after, now)

    def release(self, ip: IPv4Address, now: Clock) -> LeaseChange:
        """Take *ip* back from whoever has it; a reservation stays. Raises AddressNotFound.

        What a guest port had is kept for its MAC, so that the guest finds its address again after `down` and `up`.
        """
        value = int(ip)
        lease = self._leases.get(value)
        if lease is None:
            identity = self._offered.get(value)
            if identity is None:
                raise AddressNotFound(f"{ip} is not allocated", address=str(ip))
            self._drop_offer(identity)
            return self._change(value, None, now)
        kept = None
        if lease.kind == RESERVED:
            kept = dataclasses.replace(_idle(lease), holder=None, port=None)
        elif lease.kind == ALLOCATED and lease.port is not None and lease.mac is not None:
            kept = self._kept_for_mac(lease, lease.mac, now)
        return self._change(value, kept, now)

    def _kept_for_mac(self, lease: Lease, mac: bytes, now: Clock) -> Lease | None:
        """The released pool lease that a port's address becomes, None for one that is no address of the pool."""
        identity = lease.identity or f"{lease.port}\0\1".encode() + mac
        if not self._first <= int(lease.ip) <= self._last or identity in self._by_identity:
            return None
        return dataclasses.replace(
            lease,
            kind=POOL,
            state=RELEASED,
            identity=identity,
            holder=None,
            port=None,
            named=False,
            expires_wall=now.wall,
            expires_mono=now.mono,
            boot=now.boot,
        )

    def _fix(
        self,
        ip: int,
        kind: str,
        mac: bytes | None,
        holder: str | None,
        hostname: str | None,
        port: str | None,
        now: Clock,
    ) -> LeaseChange:
        """Make *ip* fixed, with whatever binding its MAC has there; the MAC's other addresses become free."""
        offered = self._offered.get(ip)
        if offered is not None:
            self._drop_offer(offered)
        before = self._leases.get(ip)
        same = before is not None and before.mac == mac and mac is not None and before.state in (BOUND, IDLE)
        lease = before if same and before is not None else Lease(IPv4Address(ip), state=IDLE, mac=mac)
        lease = dataclasses.replace(
            lease,
            kind=kind,
            holder=holder,
            port=port,
            hostname=hostname or lease.hostname,
            named=hostname is not None,
        )
        if not lease.is_bound(now):
            lease = _idle(lease)
        other = self._fixed.get(mac) if mac is not None else None
        return self._change(ip, lease, now, frees=(other,) if other not in (None, ip) else ())

    def _check_takable(self, ip: IPv4Address, mac: bytes | None, holder: str | None) -> None:
        """Raise ConfigError or AddressInUse unless *ip* is free, or is this MAC's or this holder's already."""
        subnet = self._settings.subnet
        if ip not in subnet or ip in (subnet.network_address, subnet.broadcast_address):
            raise ConfigError(f"{ip} is not a guest address of {subnet}", field="ip", value=str(ip))
        lease = self._leases.get(int(ip))
        taken_by = self._allocator.holder(ip)
        if taken_by is None or int(ip) in self._kept:
            return
        if int(ip) in self._offered and lease is None:
            return
        its_own = lease is not None and mac is not None and lease.mac == mac and lease.state != DECLINED
        if lease is not None and its_own and (lease.kind != ALLOCATED or holder in (None, lease.holder)):
            return
        raise AddressInUse(f"{ip} belongs to {taken_by}", address=str(ip), holder=taken_by)

    def _had(self, mac: bytes | None) -> IPv4Address | None:
        """The pool address a MAC got by DHCP, if it is still its own."""
        if mac is None:
            return None
        found = [
            lease for lease in self._leases.values() if lease.mac == mac and lease.state in (BOUND, RELEASED)
        ]
        return max(found, key=lambda lease: lease.expires_mono or 0.0).ip if found else None


def _allocated_already(lease: Lease) -> AddressInUse:
    return AddressInUse(
        f"{format_mac(lease.mac or b'')} has {lease.ip}, allocated by {lease.holder}",
        fix="release that address first",
        address=str(lease.ip),
        holder=lease.holder,
    )


def _idle(lease: Lease) -> Lease:
    """A fixed lease whose client is gone."""
    return dataclasses.replace(
        lease, state=IDLE, identity=b"", client_id=None, lease_s=0, expires_wall=None, expires_mono=None
    )
