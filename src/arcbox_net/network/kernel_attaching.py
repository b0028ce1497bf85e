"""Guests of a network in the Linux kernel: on devices of its bridge, or at sockets of a datapath that joins it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from arcbox_net.config import Egress
from arcbox_net.errors import ArcboxNetError, InterfaceNotFound
from arcbox_net.host.plan import PortPlan, TapPlan
from arcbox_net.network.attaching import Attaching
from arcbox_net.network.devices import connect, disconnect, port_infos
from arcbox_net.network.guest_port import Port
from arcbox_net.network.messages import EngineInfo, PortInfo
from arcbox_net.recipes.engine import engine_uplink

if TYPE_CHECKING:
    from arcbox_net.host.linux.ownership import OwnedLink
    from arcbox_net.host.plan import Dnat
    from arcbox_net.network.engine_egress import EngineEgress
    from arcbox_net.network.tap_datapath import TapDatapath
    from arcbox_net.recipes.engine import EngineUplink
    from arcbox_net.recipes.site import Layout, Site

log = logging.getLogger("arcbox_net")


class KernelAttaching(Attaching):
    """`dnats`: what the engine is to forward. The datapath is there while guests need it."""

    _datapath: TapDatapath | None

    def __init__(
        self,
        site: Site,
        layout: Layout,
        *parts: Any,
        dnats: Callable[[], Sequence[Dnat]],
        **options: Any,
    ) -> None:
        super().__init__(*parts, **options)
        self._site = site
        self._layout = layout
        self._dnats = dnats
        self._forgiven: set[str] = set()  # ports whose device has had another MAC than ours once

    async def listen_again(self) -> None:
        await super().listen_again()
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

    @property
    def engine(self) -> EngineEgress | None:
        """The NAT engine, while there are guests to serve."""
        return self._datapath.engine if self._datapath is not None else None

    async def engine_stats(self) -> dict[str, int]:
        """Flows, mappings, packets by what became of them; nothing without an engine."""
        return await asyncio.to_thread(self.engine.stats) if self.engine is not None else {}

    async def engine_info(self) -> EngineInfo | None:
        """What `show` says of the engine; None without one."""
        engine = self.engine
        if engine is None:
            return None
        state = await self._kernel.run(self._site.surroundings.link_state, engine.uplink.ifname)
        return await asyncio.to_thread(engine.info, state)

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

    async def open_tap(self, name: str) -> tuple[PortInfo, list[int]]:
        port = self._ports.get(name)
        fds: list[int] = []
        if isinstance(port.plan, TapPlan):
            fds = await self._kernel.run(self._site.links.open_tap, port.plan.ifname, port.plan.queues)
        return (await self._info(name)), fds

    async def _connect(self, port: Port) -> list[int]:
        if port.socket is None and not self._leaves_by_engine:
            return await self._kernel.run(connect, self._site, port)
        try:
            datapath = await self._open_datapath()
            if port.socket is None:
                datapath.let_out(port)
                return await self._kernel.run(connect, self._site, port)
            await self._let_in(datapath, port)
        except BaseException:
            await self._let_go(port)
            raise
        return []

    async def _disconnect(self, port: Port) -> None:
        if port.socket is None or self._datapath is None:
            await self._kernel.run(disconnect, self._site, port)
        await self._give_up(port)

    async def _give_up(self, port: Port) -> None:
        self._forgiven.discard(port.name)
        if port.socket is not None and self._datapath is not None:
            await self._datapath.detach(port)
        await self._let_go(port)

    async def _open_datapath(self) -> TapDatapath:
        from arcbox_net.network.tap_datapath import TapDatapath  # 10 MB, for networks with such guests only

        if self._datapath is None:
            datapath = TapDatapath(self._site, self._layout, self._kernel, self._changing)
            await datapath.open()
            self._datapath = datapath
            self.forwards_changed()
        return self._datapath

    async def _let_go(self, port: Port) -> None:
        """The guest needs the datapath no more; close it after the last one."""
        if self._datapath is not None:
            self._datapath.forget(port)
            if not len(self._datapath):
                await self.stop()

    async def detach_gone(self) -> None:
        present = {
            link.ifname: link for link in await self._kernel.run(self._site.links.owned, self._site.network)
        }
        await self._restore_uplink(present)
        await self._restore_macs(present)
        for port in self._ports:
            if port.plan.ifname in present or port.socket is not None:
                continue
            try:  # somebody may have renamed it
                await self._kernel.run(self._site.links.apply_port, port.plan)
            except InterfaceNotFound:
                log.info("port %s: its device is gone, detaching", port.name)
                await self.detach(port)

    async def _restore_macs(self, present: Mapping[str, OwnedLink]) -> None:
        """Put back MACs of devices that were changed, the first time; the second time the guest has to go.

        Whoever has a TAP's descriptor may change its MAC. With a neighbour's it takes the place that the neighbour has
        in the bridge, and what was for the neighbour goes to the host.
        """
        devices = [port for port in self._ports if port.socket is None and port.plan.ifname in present]
        changed = [port for port in devices if present[port.plan.ifname].mac != port.plan.host_mac]
        if not changed:
            return
        for port in changed:
            log.warning("port %s: somebody has changed the MAC of its device", port.name)
            if port.name in self._forgiven:
                await self.detach(port)
                devices.remove(port)
            else:
                self._forgiven.add(port.name)
        for port in devices:
            with contextlib.suppress(InterfaceNotFound):  # it has gone since
                await self._kernel.run(self._site.links.apply_port, port.plan)
        await self.restore()

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
        found = {info.name: info for info in await self._kernel.run(port_infos, self._site, self._ports)}
        if self._datapath is not None:
            found |= self._datapath.infos()
        return [found[port.name] for port in self._ports if port.name in found]
