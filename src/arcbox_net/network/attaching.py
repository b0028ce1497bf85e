"""How guest ports come and go while a network runs: address, name, row, device and filter, undone if one fails.

Whoever calls holds the network's lock.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arcbox_net.addresses import parse_ipv4
from arcbox_net.errors import InterfaceNotFound, StateError
from arcbox_net.host.plan import TapPlan
from arcbox_net.network.messages import PortInfo
from arcbox_net.network.ports import Port, PortRequest, PortTable, connect, disconnect, port_infos

if TYPE_CHECKING:
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.state import State
    from arcbox_net.recipes.site import Site

log = logging.getLogger("arcbox_net")


class Attaching:
    """Attaches and detaches. `awaited` are guests' names that forwards wait for; `guests_changed` re-aims forwards."""

    def __init__(
        self,
        site: Site,
        ports: PortTable,
        state: State,
        kernel: KernelThread,
        addressing: Addressing | None,
        naming: Naming,
        *,
        awaited: Callable[[], Collection[str]],
        guests_changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._site = site
        self._ports = ports
        self._state = state
        self._kernel = kernel
        self._addressing = addressing
        self._naming = naming
        self._awaited = awaited
        self._guests_changed = guests_changed

    async def attach(self, request: PortRequest) -> tuple[PortInfo, list[int]]:
        """A new guest port, and its TAP fds, which the caller closes after handing them on."""
        await self.detach_gone()  # whose name the caller may want again, before the kernel's notice came
        name = self._ports.choose_name(request.name, self._awaited())
        mac = self._ports.choose_mac(request.mac, name)
        ip = await self._address(request, name, mac)
        port: Port | None = None
        fds: list[int] = []
        try:
            planned = self._ports.plan(request, name, mac, ip)
            self._naming.add_port(planned)
            port = planned
            await self._kernel.run(self._state.put, "ports", name, port.to_row())
            self._ports.add(port)
            fds = await self._kernel.run(connect, self._site, port)
            await self._guests_changed()
            return (await self._info(name)), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            if port is not None:
                await self._forget(port)
            elif self._addressing is not None and ip is not None:
                await self._addressing.release_port(ip)
            raise

    async def _address(self, request: PortRequest, name: str, mac: str) -> IPv4Address | None:
        if self._addressing is None:
            return parse_ipv4(request.ip, field="ip") if request.ip is not None else None
        lease = await self._addressing.allocate(
            f"port:{name}", ip=request.ip, mac=mac, hostname=request.hostname, port=name
        )
        return IPv4Address(lease.ip)

    async def open_tap(self, name: str) -> tuple[PortInfo, list[int]]:
        """The queues of an attached TAP once more. Raises PortNotFound; no fds when the port is no TAP."""
        port = self._ports.get(name)
        fds: list[int] = []
        if isinstance(port.plan, TapPlan):
            fds = await self._kernel.run(self._site.links.open_tap, port.plan.ifname, port.plan.queues)
        return (await self._info(name)), fds

    async def detach(self, port: Port) -> None:
        """Remove the port, its device and its address."""
        await self._kernel.run(disconnect, self._site, port)
        await self._forget(port)

    async def detach_gone(self) -> None:
        """Detach the ports whose device somebody removed."""
        present = {link.ifname for link in await self._kernel.run(self._site.links.owned, self._site.network)}
        for port in self._ports:
            if port.plan.ifname in present:
                continue
            try:  # somebody may have renamed it
                await self._kernel.run(self._site.links.apply_port, port.plan)
            except InterfaceNotFound:
                log.info("port %s: its device is gone, detaching", port.name)
                await self.detach(port)

    async def is_one_outside(self, bridge: str) -> bool:
        """Whether a port's device is there, and not in *bridge*."""
        names = {port.plan.ifname for port in self._ports}
        links = await self._kernel.run(self._site.links.owned, self._site.network)
        return any(link.ifname in names and link.bridge != bridge for link in links)

    async def infos(self) -> list[PortInfo]:
        return await self._kernel.run(port_infos, self._site, self._ports)

    async def _info(self, name: str) -> PortInfo:
        return next(info for info in await self.infos() if info.name == name)

    async def _forget(self, port: Port) -> None:
        """The device is gone: forget the rest, and go on past a disk that refuses (reconcile drops such rows)."""
        self._ports.discard(port.name)
        self._naming.remove_port(port)
        try:
            await self._kernel.run(self._state.delete, "ports", port.name)
            if self._addressing is not None and port.ip is not None:
                await self._addressing.release_port(port.ip)
        except StateError as error:
            log.error("port %s: %s", port.name, error)
        await self._guests_changed()
