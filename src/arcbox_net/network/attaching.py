"""How guest ports come and go while a network runs: address, name, row, device and filter, undone if one fails.

Whoever calls holds the network's lock.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from arcbox_net.addresses import parse_ipv4
from arcbox_net.config import Egress
from arcbox_net.errors import ArcboxNetError, InterfaceNotFound, StateError
from arcbox_net.host.plan import PortPlan, TapPlan
from arcbox_net.network.devices import connect, disconnect, port_infos
from arcbox_net.network.holders import Holders
from arcbox_net.network.messages import PortInfo
from arcbox_net.network.ports import Port, PortRequest, PortTable
from arcbox_net.recipes.engine import engine_uplink

if TYPE_CHECKING:
    from arcbox_net.host.plan import Dnat
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.datapath import Datapath
    from arcbox_net.network.engine_egress import EngineEgress
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.state import State
    from arcbox_net.recipes.engine import EngineUplink
    from arcbox_net.recipes.site import Layout, Site

log = logging.getLogger("arcbox_net")


class Attaching:
    """Attaches and detaches.

    `changing` is the network's lock, `awaited` are guests' names that forwards wait for; `guests_changed` re-aims
    forwards. `holder_ended` is called when a port is to go with its process.
    """

    def __init__(
        self,
        site: Site,
        layout: Layout,
        ports: PortTable,
        state: State,
        kernel: KernelThread,
        addressing: Addressing | None,
        naming: Naming,
        *,
        changing: asyncio.Lock,
        awaited: Callable[[], Collection[str]],
        guests_changed: Callable[[], Awaitable[None]],
        holder_ended: Callable[[str], None],
        dnats: Callable[[], Sequence[Dnat]],
    ) -> None:
        self._site = site
        self._layout = layout
        self._ports = ports
        self._state = state
        self._kernel = kernel
        self._addressing = addressing
        self._naming = naming
        self._changing = changing
        self._awaited = awaited
        self._guests_changed = guests_changed
        self._dnats = dnats
        self._holders = Holders(holder_ended)
        self._datapath: Datapath | None = None

    async def listen_again(self) -> None:
        """Let the guests of an earlier run's sockets connect again, and the kernel's guests leave."""
        for port in self._ports:
            if port.socket is None:
                continue
            try:
                await self._connect(port)
            except (ArcboxNetError, OSError) as error:
                log.error("port %s of the earlier run is gone: %s", port.name, error)
                await self._forget(port)
        await self._let_out()

    async def _let_out(self) -> None:
        """Let the guests on devices of the kernel leave by the engine. One that cannot yet waits for a change."""
        if not self._leaves_by_engine:
            return
        for port in self._ports:
            if port.socket is not None:
                continue
            try:
                (await self._open_datapath()).let_out(port)
            except (ArcboxNetError, OSError) as error:
                log.error("port %s of the earlier run has no way out: %s", port.name, error)

    async def stop(self) -> None:
        """Close the sockets of guests; links and rules are somebody else's to remove."""
        self._holders.close()
        datapath, self._datapath = self._datapath, None
        if datapath is not None:
            await datapath.close()

    @property
    def engine(self) -> EngineEgress | None:
        """The NAT engine, while there are guests to serve."""
        return self._datapath.engine if self._datapath is not None else None

    async def engine_stats(self) -> dict[str, int]:
        """Flows, mappings, packets by what became of them; nothing without an engine."""
        return await asyncio.to_thread(self.engine.stats) if self.engine is not None else {}

    def forwards_changed(self) -> None:
        """Let the engine forward what the network forwards."""
        if self.engine is not None:
            self.engine.set_forwards(self._dnats())

    async def follow_uplink(self) -> EngineUplink | None:
        """Let the engine's uplink be what the host's interface is now. One that is gone is waited for."""
        if not self._leaves_by_engine:
            return None
        try:
            uplink = await self._kernel.run(engine_uplink, self._site)
            if self.engine is not None:
                self.engine.follow(uplink)
        except ArcboxNetError as error:
            log.warning("egress engine: %s", error)
            return None
        if self.engine is None:
            await self._let_out()
        return uplink

    @property
    def own_plans(self) -> tuple[PortPlan, ...]:
        """The devices by which our datapath is on the bridge, while there are guests for it."""
        return self._datapath.plans if self._datapath is not None else ()

    @property
    def _leaves_by_engine(self) -> bool:
        return self._layout.egress == Egress.ENGINE.value

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
            fds = await self._connect(port)
            await self._guests_changed()
            return (await self._info(name)), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            if port is not None:
                await self._undo(port)
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
        if port.socket is not None and self._datapath is not None:
            await self._datapath.detach(port)
        else:
            await self._kernel.run(disconnect, self._site, port)
        await self._let_go(port)
        await self._forget(port)

    async def _connect(self, port: Port) -> list[int]:
        if port.socket is None and not self._leaves_by_engine:
            return await self._kernel.run(connect, self._site, port)
        try:
            datapath = await self._open_datapath()
            if port.socket is None:
                datapath.let_out(port)
                return await self._kernel.run(connect, self._site, port)
            if port.socket.holder is not None:
                self._holders.hold(
                    port.name, port.socket.holder
                )  # first: if it is gone, nothing else is there
            await datapath.attach(port)
        except BaseException:
            await self._let_go(port)
            raise
        return []

    async def _open_datapath(self) -> Datapath:
        from arcbox_net.network.datapath import Datapath  # 10 MB, for networks with such guests only

        if self._datapath is None:
            datapath = Datapath(self._site, self._layout, self._kernel, self._changing)
            await datapath.open()
            self._datapath = datapath
            self.forwards_changed()
        return self._datapath

    async def _let_go(self, port: Port) -> None:
        """The guest needs the datapath no more; close it after the last one."""
        if self._datapath is not None:
            self._datapath.forget(port)
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._datapath is not None and not len(self._datapath):
            await self.stop()

    async def detach_gone(self) -> None:
        """Detach the ports whose device somebody removed."""
        present = {link.ifname for link in await self._kernel.run(self._site.links.owned, self._site.network)}
        await self._restore_uplink(present)
        for port in self._ports:
            if port.plan.ifname in present or port.socket is not None:
                continue
            try:  # somebody may have renamed it
                await self._kernel.run(self._site.links.apply_port, port.plan)
            except InterfaceNotFound:
                log.info("port %s: its device is gone, detaching", port.name)
                await self.detach(port)

    async def _restore_uplink(self, present: Collection[str]) -> None:
        if self._datapath is None or all(plan.ifname in present for plan in self._datapath.plans):
            return
        try:  # somebody may have renamed it
            await self._datapath.restore()
        except (ArcboxNetError, OSError) as error:
            log.warning("uplink: %s", error)

    async def restore(self) -> None:
        """Make the uplink as planned. Raises KernelError, InterfaceNotFound."""
        if self._datapath is not None:
            await self._datapath.restore()

    async def is_one_outside(self, bridge: str) -> bool:
        """Whether a port's device is there, and not in *bridge*."""
        names = {port.plan.ifname for port in self._ports}
        links = await self._kernel.run(self._site.links.owned, self._site.network)
        return any(link.ifname in names and link.bridge != bridge for link in links)

    async def infos(self) -> list[PortInfo]:
        """Every port, in the order of attachment."""
        found = {info.name: info for info in await self._kernel.run(port_infos, self._site, self._ports)}
        if self._datapath is not None:
            found |= self._datapath.infos()
        return [found[port.name] for port in self._ports if port.name in found]

    async def _info(self, name: str) -> PortInfo:
        return next(info for info in await self.infos() if info.name == name)

    async def _undo(self, port: Port) -> None:
        """Detach a port of which something failed, as far as that goes: its caller is told of the first failure."""
        try:
            if port.socket is not None and self._datapath is not None:
                await self._datapath.detach(port)
            await self._let_go(port)
        except ArcboxNetError as error:
            log.error("port %s: %s", port.name, error)
        await self._forget(port)

    async def _forget(self, port: Port) -> None:
        """The device is gone: forget the rest, and go on past a disk that refuses (reconcile drops such rows)."""
        self._holders.drop(port.name)
        self._ports.discard(port.name)
        self._naming.remove_port(port)
        try:
            await self._kernel.run(self._state.delete, "ports", port.name)
            if self._addressing is not None and port.ip is not None:
                await self._addressing.release_port(port.ip)
        except StateError as error:
            log.error("port %s: %s", port.name, error)
        await self._guests_changed()
