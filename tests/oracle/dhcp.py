"""A DHCP server as RFC 2131 reads, slowly: lists are searched, nothing is indexed, and every write succeeds at once.

It is the oracle of the stateful test. It knows clients without host names and without guest ports.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
OFFER_S, DECLINE_S, REUSE_AFTER_S, FRESH_S = 30.0, 600.0, 10.0, 1.0


@dataclasses.dataclass
class Held:
    """One address and why nobody else gets it. `until` is when that stops."""

    address: int
    client: str
    what: str  # offered, bound, released, declined
    until: float


@dataclasses.dataclass
class Verdict:
    """None: no answer. For an OFFER, `allowed` holds all addresses that would be right."""

    kind: int | None
    allowed: Sequence[int] = ()


class SlowServer:
    def __init__(self, pool: Sequence[int], lease_s: float) -> None:
        self.pool = list(pool)
        self.lease_s = lease_s
        self.held: list[Held] = []
        self.disk: dict[int, Held] = {}
        self.reserved: dict[str, int] = {}

    def live(self, now: float) -> dict[int, str]:
        """Which client may use which address now."""
        return {h.address: h.client for h in self.held if h.what == "bound" and h.until > now}

    def offered_to(self, client: str, address: int, now: float) -> None:
        """The server under test chose *address*."""
        self._drop_offers(client)
        if client not in self.reserved and self._binding(client, now) != address:
            mine = [h for h in self.held if h.address == address and h.client == client]
            self.held = [h for h in self.held if h.address != address] + mine
            self.held.append(Held(address, client, "offered", now + OFFER_S))

    def discover(self, client: str, now: float) -> Verdict:
        if client in self.reserved:
            return Verdict(OFFER, [self.reserved[client]])
        own = self._own(client, now)
        if own is not None:
            return Verdict(OFFER, [own])
        free = [address for address in self.pool if self._is_free(address, now)]
        if free:
            return Verdict(OFFER, free)
        gone = [h for h in self.held if self._is_reusable(h, now)]
        return Verdict(OFFER, [h.address for h in gone]) if gone else Verdict(None)

    def request(self, client: str, address: int, now: float, *, rebooting: bool = False) -> Verdict:
        if rebooting and client not in self.reserved and self._remembered(client) is None:
            return Verdict(None)
        if client in self.reserved:
            allowed = self.reserved[client] == address
        else:
            remembered = self._remembered(client)
            others = [
                h for h in self.held if h.address == address and h.client != client and h.what != "gone"
            ]
            others = [h for h in others if not (h.what in ("offered", "declined") and h.until <= now)]
            mine = any(h.address == address and h.client == client for h in self.held)
            allowed = (remembered in (None, address)) and not others
            allowed = allowed and (mine or self._is_free(address, now))
        if not allowed:
            return Verdict(NAK)
        for h in self.held:
            recent = h.until > now + self.lease_s - FRESH_S
            if h.client == client and h.address == address and h.what == "bound" and recent:
                return Verdict(ACK, [address])
        moved = [h.address for h in self.held if h.client == client and h.what != "offered"]
        self.held = [h for h in self.held if h.client != client and h.address != address]
        self._keep(Held(address, client, "bound", now + self.lease_s))
        for other in moved:
            if other != address:
                self.disk.pop(other, None)
        return Verdict(ACK, [address])

    def request_refused_by_the_disk(self, client: str, address: int, now: float) -> Verdict:
        """The verdict that `request` would give. When it is ACK, the address goes back to what the disk has."""
        verdict = copy.deepcopy(self).request(client, address, now)
        if verdict.kind == ACK:
            self._drop_offers(client)
            self.held = [h for h in self.held if h.address != address]
            row = self.disk.get(address)
            known = [h.client for h in self.held if h.what in ("bound", "released")]
            if row is not None and row.client not in known and (row.what != "declined" or row.until > now):
                self.held.append(dataclasses.replace(row))
        return verdict

    def release(self, client: str, address: int, now: float) -> None:
        for h in self.held:
            if h.client == client and h.address == address and h.what == "bound" and h.until > now:
                h.what, h.until = ("gone" if client in self.reserved else "released"), now
                self.disk[address] = dataclasses.replace(h)

    def decline(self, client: str, address: int, now: float) -> None:
        if client in self.reserved:
            return
        mine = [h for h in self.held if h.client == client and h.address == address]
        if any(h.what == "bound" or (h.what == "offered" and h.until > now) for h in mine):
            self.held = [h for h in self.held if h.address != address and not self._offer_of(h, client)]
            self._keep(Held(address, "", "declined", now + DECLINE_S))

    def reserve(self, client: str, address: int) -> None:
        self.reserved[client] = address

    def restart(self) -> None:
        """What was written last about an address counts. Of two rows of one client the later one does."""
        self.held = []
        for row in sorted(self.disk.values(), key=lambda h: -h.until):
            if row.what == "declined" or row.client not in [h.client for h in self.held]:
                self.held.append(dataclasses.replace(row))

    def _keep(self, held: Held) -> None:
        self.held.append(held)
        self.disk[held.address] = dataclasses.replace(held)

    def _own(self, client: str, now: float) -> int | None:
        for h in self.held:
            if h.client == client and h.what == "offered" and h.until > now:
                return h.address
        return self._remembered(client)

    def _remembered(self, client: str) -> int | None:
        """Its binding, ended or not, as long as nobody else got the address."""
        for h in self.held:
            if h.client == client and h.what in ("bound", "released"):
                return h.address
        return None

    def _binding(self, client: str, now: float) -> int | None:
        return next((address for address, who in self.live(now).items() if who == client), None)

    def _is_free(self, address: int, now: float) -> bool:
        if address not in self.pool or address in self.reserved.values():
            return False
        taken = [h for h in self.held if h.what in ("bound", "released") or h.until > now]
        return address not in [h.address for h in taken]

    def _is_reusable(self, h: Held, now: float) -> bool:
        if h.address not in self.pool or h.address in self.reserved.values():
            return False
        if any(o.address == h.address and o.what == "offered" and o.until > now for o in self.held):
            return False
        return h.what == "released" or (h.what == "bound" and h.until + REUSE_AFTER_S <= now)

    def _drop_offers(self, client: str) -> None:
        self.held = [h for h in self.held if not self._offer_of(h, client)]

    @staticmethod
    def _offer_of(h: Held, client: str) -> bool:
        return h.client == client and h.what == "offered"
