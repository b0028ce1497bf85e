"""Addresses of one network, durable before they are told: the lease table, and the DHCP service when it is on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Network

from arcbox_net.addresses import format_mac, parse_ipv4, parse_mac
from arcbox_net.config import NetConfig, pool_of
from arcbox_net.config_dhcp import Reservation
from arcbox_net.config_values import check_port_name
from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError
from arcbox_net.network.guest_port import Port
from arcbox_net.network.messages import LeaseInfo
from arcbox_net.network.state import State
from arcbox_net.recipes.site import Layout
from arcbox_net.services.dhcp.clock import system_clock
from arcbox_net.services.dhcp.commit import LeaseWriter
from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.link import DhcpLink
from arcbox_net.services.dhcp.messages import OPT_ROUTER
from arcbox_net.services.dhcp.records import ALLOCATED, POOL, RESERVED, Lease
from arcbox_net.services.dhcp.settings import DhcpSettings
from arcbox_net.services.dhcp.shell import DhcpService

LeaseListener = Callable[[str | None, IPv4Address, bool, bytes | None], None]


class Addressing:
    """One allocator for ports, programs and DHCP clients, so that an address never has two owners."""

    def __init__(
        self,
        network: str,
        config: NetConfig,
        layout: Layout,
        state: State,
        domain: str,
        link: DhcpLink,
    ) -> None:
        self._network = network
        self._link = link
        self._config = config
        self._layout = layout
        self._state = state
        self._settings = dhcp_settings(config, layout, domain)
        self._table: LeaseTable
        self._writer: LeaseWriter
        self._listener: LeaseListener
        self._service: DhcpService | None = None

    async def start(
        self,
        port_of: Callable[[bytes], str | None],
        listener: LeaseListener,
        former: Collection[Reservation] = (),
    ) -> None:
        """Load what is durable, apply configured reservations, and serve DHCP if the network has it.

        *former* are the reservations that the configuration had last time.
        """
        loop = asyncio.get_running_loop()
        leases = await loop.run_in_executor(None, self._state.leases)
        inside = [lease for lease in leases if self._layout.is_guest_address(lease.ip)]
        self._table = LeaseTable(self._settings, inside, now=system_clock())
        self._writer = LeaseWriter(self._table, self._state)
        await self._apply_reservations(former)
        if self._config.has_dhcp:

            def on_lease(lease: Lease, active: bool) -> None:
                if active or lease.kind != RESERVED:  # a reservation keeps its name
                    listener(lease.hostname, lease.ip, active, lease.mac)

            service = DhcpService(
                self._settings,
                self._table,
                self._state,
                self._link,
                port_of=port_of,
                on_lease=on_lease,
                writer=self._writer,
            )
            await service.start()
            self._service = service
        self._listener = listener
        now = system_clock()
        for lease in self._table.view(now):
            if lease.kind == RESERVED or (lease.kind == POOL and lease.is_bound(now)):
                listener(lease.hostname, lease.ip, True, lease.mac)

    async def _apply_reservations(self, former: Collection[Reservation]) -> None:
        wanted = self._config.dhcp.reservations
        now = system_clock()
        reserved = {(str(lease.ip), lease.mac) for lease in self._table.view(now) if lease.kind == RESERVED}
        kept = {(item.ip, parse_mac(item.mac)) for item in wanted}
        gone = {(item.ip, parse_mac(item.mac)) for item in former} & reserved - kept
        await self._writer.commit([self._table.unreserve(IPv4Address(ip), now) for ip, _ in sorted(gone)])
        for ip in {ip for ip, _ in gone} & {
            item.ip for item in wanted
        }:  # another's now, whoever has it still
            with contextlib.suppress(AddressNotFound):
                await self._writer.commit([self._table.release(IPv4Address(ip), now)])
        changes = []
        for item in wanted:
            try:
                changes.append(
                    self._table.reserve(parse_mac(item.mac), self._checked(item.ip), item.hostname, now)
                )
            except AddressInUse as error:
                raise AddressInUse(
                    f"reservation of {item.ip} for {item.mac}: {error.message}",
                    fix="reserve another address; or start without it and free this one:"
                    f" arcbox-net lease release {self._network} {item.ip}",
                    **error.facts,
                ) from None
        await self._writer.commit(changes)

    async def stop(self) -> None:
        """Forget what programs and ports had; leases and reservations stay on the disk."""
        if not hasattr(self, "_writer"):
            return
        try:
            await self._release_allocated(lambda _: True)
        finally:
            if self._service is not None:
                await self._service.stop()
            else:
                await self._writer.close()

    async def rebind(self) -> None:
        """Serve again on a bridge that was deleted and made anew."""
        if self._service is not None:
            await self._service.rebind()

    async def keep_only_ports(self, ports: dict[str, Port]) -> None:
        """Free what ports of a run that was killed had, but for those that are still there."""

        def is_gone(lease: Lease) -> bool:
            port = ports.get(lease.port) if lease.port is not None else None
            return lease.port is not None and (port is None or port.ip != lease.ip)

        await self._release_allocated(is_gone)

    async def _release_allocated(self, chosen: Callable[[Lease], bool]) -> None:
        now = system_clock()
        held = [lease for lease in self._table.view(now) if lease.kind == ALLOCATED and chosen(lease)]
        await self._writer.commit([self._table.release(lease.ip, now) for lease in held])

    async def allocate(
        self, holder: str, *, ip: str | None, mac: str | None, hostname: str | None, port: str | None = None
    ) -> LeaseInfo:
        """*ip* or a free address for *holder*, bound to *mac* if given. Raises PoolExhausted, AddressInUse."""
        wanted = self._checked(ip) if ip is not None else None
        if hostname is not None:
            check_port_name(hostname, field="hostname")
        change = self._table.allocate(
            holder,
            mac=parse_mac(mac) if mac else None,
            ip=wanted,
            hostname=hostname,
            port=port,
            now=system_clock(),
        )
        await self._writer.commit([change])
        assert change.lease is not None
        return self._info(change.lease)

    async def reserve(self, mac: str, ip: str, hostname: str | None) -> LeaseInfo:
        """Keep *ip* for *mac* from now on. Raises AddressInUse."""
        if hostname is not None:
            check_port_name(hostname, field="hostname")
        change = self._table.reserve(parse_mac(mac), self._checked(ip), hostname, system_clock())
        await self._writer.commit([change])
        assert change.lease is not None
        self._listener(hostname, change.ip, True, change.lease.mac)
        return self._info(change.lease)

    async def release(self, ip: IPv4Address) -> None:
        """Forget who has *ip*, and its reservation. Raises AddressNotFound."""
        now = system_clock()
        lease = next((lease for lease in self._table.view(now) if lease.ip == ip), None)
        if lease is None:
            raise AddressNotFound(
                f"{ip} is not allocated",
                fix=f"list them: arcbox-net lease ls {self._network}",
                address=str(ip),
            )
        is_reserved = lease.kind == RESERVED
        await self._writer.commit(
            [self._table.unreserve(ip, now) if is_reserved else self._table.release(ip, now)]
        )
        self._listener(lease.hostname, ip, False, lease.mac)

    async def release_port(self, ip: IPv4Address) -> None:
        """The port that had *ip* is gone; a reservation stays."""
        with contextlib.suppress(AddressNotFound):
            await self._writer.commit([self._table.release(ip, system_clock())])

    def keep_off(self, others: Collection[IPv4Address]) -> None:
        """Give nobody an address of *others*, who have theirs of another server."""
        self._table.keep_off(others)

    def view(self) -> list[LeaseInfo]:
        now = system_clock()
        return [self._info(lease) for lease in sorted(self._table.view(now), key=lambda lease: lease.ip)]

    def by_hostname(self, hostname: str) -> IPv4Address | None:
        """Who was given that host name by a reservation or an allocation, not by its own wish."""
        for lease in self._table.view(system_clock()):
            if lease.named and (lease.hostname or "").lower() == hostname:
                return lease.ip
        return None

    @property
    def available(self) -> int:
        return self._table.available

    def stats(self) -> dict[str, int]:
        return self._service.stats() if self._service else {}

    def _info(self, lease: Lease) -> LeaseInfo:
        return lease_info(lease, self._layout)

    def _checked(self, text: str) -> IPv4Address:
        ip = parse_ipv4(text, field="ip")
        if ip == self._layout.gateway:
            raise AddressInUse(f"{ip} is the gateway's address", address=text, holder="gateway")
        if not self._layout.is_guest_address(ip):
            raise ConfigError(
                f"{ip} cannot be a guest's address in {self._layout.subnet}",
                field="ip",
                value=text,
            )
        return ip


def dhcp_settings(config: NetConfig, layout: Layout, domain: str) -> DhcpSettings:
    """What the DHCP core needs, from the configuration and the layout in force."""
    assert layout.address is not None and layout.subnet is not None and layout.gateway is not None
    dhcp = config.dhcp
    options = {number: dhcp.option_payload(number) for number in dhcp.options}
    if layout.router not in (None, layout.gateway):
        options[OPT_ROUTER] = layout.router.packed  # the LAN's own router, in mode bridge
    return DhcpSettings(
        subnet=layout.subnet,
        gateway=layout.gateway,
        router=layout.router is not None,
        pool=pool_of(config, layout.subnet),
        dns=(layout.gateway,) if config.has_dns else (),
        domain=domain,
        search=dhcp.search or (domain,),
        mtu=config.mtu,
        lease_s=dhcp.lease_s,
        max_lease_s=dhcp.max_lease_s,
        match=dhcp.match,
        options=options,
        routes=tuple((IPv4Network(cidr), IPv4Address(router)) for cidr, router in dhcp.routes),
        addresses_per_port_max=dhcp.addresses_per_port_max,
        requests_per_s=dhcp.requests_per_s,
    )


def lease_info(lease: Lease, layout: Layout) -> LeaseInfo:
    mac = format_mac(lease.mac) if lease.mac else None
    ip6 = layout.guest_address6(mac) if mac else None
    return LeaseInfo(
        ip=str(lease.ip),
        ip6=str(ip6) if ip6 else None,
        state=lease.kind if lease.kind != POOL else lease.state,
        mac=mac,
        client_id=lease.client_id.hex() if lease.client_id else None,
        hostname=lease.hostname,
        port=lease.port,
        expires_s=lease.expires_s(system_clock()),
    )
