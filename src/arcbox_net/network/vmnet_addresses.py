"""Addresses where the system's DHCP server gives them: its lease file, and what programs took beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from arcbox_net.addresses import format_mac, parse_ipv4, parse_mac
from arcbox_net.config_values import check_port_name
from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError, PoolExhausted, Unsupported
from arcbox_net.host.macos.leases import LeaseFile, SystemLease
from arcbox_net.network.messages import LeaseInfo

if TYPE_CHECKING:
    from arcbox_net.config_dhcp import Reservation
    from arcbox_net.recipes.site import Layout

LOOK_EVERY_S = 1.0
LeaseListener = Callable[[str | None, IPv4Address, bool, bytes | None], None]


class VmnetAddresses:
    """What is allocated here comes from the end of the subnet, which the system's server comes to last.

    *read* and *now* are the lease file, if not the system's, and the clock. *listener* is told of leases.
    """

    def __init__(
        self,
        layout: Layout,
        reservations: tuple[Reservation, ...],
        listener: LeaseListener,
        *,
        read: Callable[[], list[SystemLease]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        assert layout.subnet is not None
        self._layout = layout
        self._subnet: IPv4Network = layout.subnet
        self._reserved = {
            IPv4Address(item.ip): LeaseInfo(
                ip=item.ip, state="reserved", mac=format_mac(parse_mac(item.mac)), hostname=item.hostname
            )
            for item in reservations
        }
        self._listener = listener
        self._read = read or LeaseFile().read
        self._now = now
        self._allocated: dict[IPv4Address, LeaseInfo] = {}
        self._known: dict[IPv4Address, SystemLease] = {}
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follow the lease file."""
        self.look()
        self._looking = asyncio.create_task(self._look_again())

    async def stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    def look(self) -> None:
        """Tell of what has changed in the lease file."""
        now = self._now()
        current = {
            lease.ip: lease for lease in self._read() if lease.ip in self._subnet and lease.expires > now
        }
        before, self._known = self._known, current
        for ip, lease in before.items():
            if ip not in current or current[ip].hostname != lease.hostname or current[ip].mac != lease.mac:
                self._listener(lease.hostname, ip, False, _packed(lease.mac))
        for ip, lease in current.items():
            if ip not in before or before[ip].hostname != lease.hostname or before[ip].mac != lease.mac:
                self._listener(lease.hostname, ip, True, _packed(lease.mac))

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.look()

    def of_mac(self, mac: str) -> IPv4Address | None:
        """The address that the server gave to *mac* last."""
        found = [lease for lease in self._known.values() if lease.mac == mac]
        return max(found, key=lambda lease: lease.expires).ip if found else None

    async def allocate(
        self, holder: str, *, ip: str | None, mac: str | None, hostname: str | None, port: str | None = None
    ) -> LeaseInfo:
        """*ip* or a free address for *holder*, who sets it up itself. Raises PoolExhausted, AddressInUse."""
        if hostname is not None:
            check_port_name(hostname, field="hostname")
        wanted = format_mac(parse_mac(mac)) if mac else None
        address = self._checked(ip, wanted) if ip is not None else self._free()
        lease = LeaseInfo(ip=str(address), state="allocated", mac=wanted, hostname=hostname, port=port)
        self._allocated[address] = lease
        return lease

    async def reserve(self, mac: str, ip: str, hostname: str | None) -> LeaseInfo:
        raise Unsupported(
            "the system's DHCP server takes reservations only when a network is made",
            fix="write it into the configuration (dhcp.reservations, from macOS 26 on) and start the network anew",
            feature="reservations",
        )

    async def release(self, ip: IPv4Address) -> None:
        if self._allocated.pop(ip, None) is None:
            raise AddressNotFound(
                f"{ip} was not allocated here: what the system's DHCP server gave, it takes back itself",
                fix="list them: arcbox-net lease ls",
                address=str(ip),
            )

    async def release_port(self, ip: IPv4Address) -> None:
        self._allocated.pop(ip, None)

    def view(self) -> list[LeaseInfo]:
        now = self._now()
        found = {
            lease.ip: LeaseInfo(
                ip=str(lease.ip),
                state="bound",
                mac=lease.mac,
                hostname=lease.hostname,
                ip6=self._ip6(lease.mac),
                expires_s=lease.expires - now,
            )
            for lease in self._known.values()
            if lease.expires > now
        }
        return [lease for _, lease in sorted((self._reserved | found | self._allocated).items())]

    @property
    def available(self) -> int:
        return self._subnet.num_addresses - 3 - len({*self._reserved, *self._known, *self._allocated})

    def stats(self) -> dict[str, int]:
        return {"leases": len(self._known), "allocated": len(self._allocated)}

    def _free(self) -> IPv4Address:
        taken = {*self._reserved, *self._known, *self._allocated, self._layout.gateway}
        for offset in range(2, self._subnet.num_addresses):
            address = self._subnet[-offset]
            if address not in taken and address != self._subnet.network_address:
                return address
        raise PoolExhausted(
            f"{self._subnet} has no free address",
            fix="release one, or use a larger subnet",
            subnet=str(self._subnet),
            size=self._subnet.num_addresses - 3,
        )

    def _checked(self, text: str, mac: str | None) -> IPv4Address:
        ip = parse_ipv4(text, field="ip")
        ends = (self._subnet.network_address, self._subnet.broadcast_address)
        if ip not in self._subnet or ip in ends:
            raise ConfigError(f"{ip} cannot be a guest's address in {self._subnet}", field="ip", value=text)
        if ip == self._layout.gateway:
            raise AddressInUse(f"{ip} is the gateway's address", address=text, holder="gateway")
        holder = self._allocated.get(ip) or self._reserved.get(ip)
        leased = self._known.get(ip)
        for other in (holder, leased):
            if other is not None and (mac is None or other.mac != mac or other is self._allocated.get(ip)):
                raise AddressInUse(f"{ip} is another guest's", address=text, holder=other.mac or "program")
        return ip

    def _ip6(self, mac: str | None) -> str | None:
        address = self._layout.guest_address6(mac) if mac else None
        return str(address) if address else None


def _packed(mac: str | None) -> bytes | None:
    return parse_mac(mac) if mac else None
