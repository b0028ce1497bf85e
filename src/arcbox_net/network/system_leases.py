"""Addresses of our subnet that the system's own DHCP server gave: to guests of others, who keep them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network

from arcbox_net.host.macos.leases import LeaseFile, SystemLease
from arcbox_net.network.messages import LeaseInfo

LOOK_EVERY_S = 1.0
SYSTEM = "system"  # the state of such a lease


class SystemLeases:
    """*changed* is told of all such addresses, again and again. *read* and *now*: the lease file, and the clock."""

    def __init__(
        self,
        subnet: IPv4Network,
        changed: Callable[[Collection[IPv4Address]], None],
        *,
        read: Callable[[], list[SystemLease]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._subnet = subnet
        self._changed = changed
        self._read = read or LeaseFile().read
        self._now = now
        self._known: dict[IPv4Address, SystemLease] = {}
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look, and follow the file."""
        self.look()
        self._looking = asyncio.create_task(self._look_again())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def look(self) -> None:
        now = self._now()
        self._known = {
            lease.ip: lease for lease in self._read() if lease.ip in self._subnet and lease.expires > now
        }
        self._changed(self._known)

    def view(self) -> list[LeaseInfo]:
        now = self._now()
        return [
            LeaseInfo(
                ip=str(lease.ip),
                state=SYSTEM,
                mac=lease.mac,
                hostname=lease.hostname,
                expires_s=lease.expires - now,
            )
            for lease in self._known.values()
        ]

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()
