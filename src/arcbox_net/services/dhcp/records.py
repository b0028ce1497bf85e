"""The values that DHCP and the address API remember: a lease, a change of one, a moment. `leases` decides."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from typing import NamedTuple

# How an address came to its owner.
POOL = "pool"  # handed out by DHCP, ends when the lease does
RESERVED = "reserved"  # always this MAC's, bound or not
ALLOCATED = "allocated"  # a program's or a port's, until it gives it back

# What the owner does with it.
IDLE = "idle"  # reserved or allocated, and no DHCP client has it
OFFERED = "offered"  # only in listings, never stored
BOUND = "bound"
RELEASED = "released"  # given back, and kept for the same client while there are others
DECLINED = "declined"  # somebody else answers on it


class Clock(NamedTuple):
    """A moment. `mono` counts suspended time too; `boot` names the boot that it counts from."""

    wall: float
    mono: float
    boot: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """An address and who has it.

    The end is kept on both clocks: `expires_mono` holds while the machine is up, so setting the wall clock
    neither ends nor prolongs a lease, and `expires_wall` is what is left after a reboot. `holder` is the port
    or program of an allocated address. `port` is the guest port a DHCP client came from. `named`: the host name
    was given with the reservation or port, so the client's own does not count.
    """

    ip: IPv4Address
    kind: str = POOL
    state: str = BOUND
    identity: bytes = b""
    mac: bytes | None = None
    client_id: bytes | None = None
    hostname: str | None = None
    named: bool = False
    port: str | None = None
    holder: str | None = None
    lease_s: int = 0
    expires_wall: float | None = None
    expires_mono: float | None = None
    boot: str = ""

    def expires_s(self, now: Clock) -> float | None:
        """Seconds until it ends (negative: since it ended), or None when it does not end."""
        return None if self.expires_mono is None else self.expires_mono - now.mono

    def status(self, now: Clock) -> str:
        """What a listing shows: bound, offered or declined, or else reserved, allocated or released."""
        if self.is_bound(now):
            return BOUND
        if self.state in (OFFERED, DECLINED):
            return self.state
        return self.kind if self.kind != POOL else RELEASED

    def is_bound(self, now: Clock) -> bool:
        return self.state == BOUND and self.expires_mono is not None and self.expires_mono > now.mono


@dataclasses.dataclass(frozen=True, slots=True)
class LeaseChange:
    """What one durable step writes: *ip* has *lease* (None: nothing), the addresses in *frees* have none.

    Once it is durable, the bindings in `ended` are over or have another name, and with `started` that of
    *lease* is new or has another name.
    """

    ip: IPv4Address
    lease: Lease | None
    frees: tuple[IPv4Address, ...] = ()
    ended: tuple[Lease, ...] = ()
    started: bool = False
