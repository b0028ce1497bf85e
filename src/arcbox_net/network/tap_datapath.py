"""The datapath whose uplink is a TAP on the network's bridge, and with egress engine the NAT engine's home.

*Theory of operation.* Opened with the first guest that needs it and closed with the last, so that a network without
has no worker thread and none of these modules in memory. With egress engine all guests are such, because all leave by
it. Each worker has a queue of the uplink; the engine is the first worker's.

What passes the TAP the kernel filters like what a guest sends, for exactly the guests behind it (`SwitchedPlan`); which
of them sent it is the switch's to check. The kernel answers a flow by the queue that its last frame came from, so what
a guest gets from there comes to its own worker. When the TAP is gone it is made anew, again and again, while guests
wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING

from arcbox_net.addresses import bridge_mac, stable_mac
from arcbox_net.config import Egress
from arcbox_net.dataplane.worker_group import workers_by_cores
from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux.tap import takes_uso
from arcbox_net.host.plan import UPLINK, PortPlan, SwitchedPlan, UplinkPlan, uplink_ifname
from arcbox_net.network.datapath import Datapath
from arcbox_net.network.devices import connect, disconnect
from arcbox_net.network.engine_egress import EngineEgress, add_queue
from arcbox_net.ports.queues import QUEUE_LOST, QUEUES_CLOSE
from arcbox_net.ports.tap import TapPort
from arcbox_net.recipes.engine import engine_uplink

if TYPE_CHECKING:
    from arcbox_net.dataplane.worker_views import WorkerEvent
    from arcbox_net.network.guest_port import Port
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.recipes.site import Layout, Site

RESTORE_FIRST_S = 0.05
RESTORE_MOST_S = 2.0
log = logging.getLogger("arcbox_net.datapath")


class TapDatapath(Datapath):
    """See the module's docstring."""

    def __init__(self, site: Site, layout: Layout, kernel: KernelThread, changing: asyncio.Lock) -> None:
        config = site.config
        queues = config.workers or workers_by_cores()
        super().__init__(site, layout, kernel, changing, workers=queues)
        self._site = site
        self.uplink = UplinkPlan(
            network=site.network,
            port=UPLINK,
            ifname=uplink_ifname(site.network),
            bridge=layout.bridge,
            mac=stable_mac(site.network, UPLINK),
            mtu=config.mtu,
            isolated=config.isolated,
            anti_spoof=config.anti_spoof,
            queues=queues,
            multi_queue=True,
        )
        self._leaving: dict[str, Port] = {}  # guests with devices of the kernel, who leave by the engine
        self._restoring: asyncio.Task[None] | None = None
        self._is_lost_again = False
        self._uplink_number = -1
        self.engine: EngineEgress | None = None

    async def _open_uplink(self) -> None:
        uso = takes_uso()
        self._uplink_number = self._group.add_everywhere(
            [TapPort(frame_max=self._frame_max, uso=uso) for _ in self._group.workers]
        )
        if self._layout.egress == Egress.ENGINE.value:
            outside = await self._kernel.run(engine_uplink, self._site)
            self.engine = EngineEgress(self._site, self._layout, outside, self._group.place(0), self._switch)
            self.engine.open()
        self._bind_network(
            self._uplink_number,
            bridge_mac(self._network) if self._layout.gateway is not None else None,
            self.engine.number if self.engine else None,
        )
        for plan in self.plans:
            await self._kernel.run(self._site.firewall.add_port, plan)
        await self.restore()

    async def close(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
        if self.engine is not None:
            self.engine.close()
        await super().close()

    async def _close_uplink(self) -> None:
        for plan in self.plans:
            await self._kernel.run(self._remove, plan)

    @property
    def plans(self) -> tuple[PortPlan, ...]:
        """The devices by which it is on the bridge."""
        return (self.uplink,) if self.engine is None else (self.uplink, self.engine.leg)

    def __len__(self) -> int:
        return super().__len__() + len(self._leaving)

    def let_out(self, port: Port) -> None:
        """A guest that has a device of the kernel leaves by the engine."""
        assert self.engine is not None
        self.engine.add_guest(port)
        self._leaving[port.name] = port

    def forget(self, port: Port) -> None:
        """As `let_out` never happened."""
        if self._leaving.pop(port.name, None) is not None and self.engine is not None:
            self.engine.remove_guest(port)

    async def _admit(self, port: Port) -> None:
        await self._kernel.run(connect, self._site, port)
        try:
            await self._kernel.run(self._pin, port)
        except BaseException:
            await self._dismiss(port)
            raise

    async def _dismiss(self, port: Port) -> None:
        await self._kernel.run(disconnect, self._site, port)

    async def restore(self) -> None:
        """Make the uplink as planned, whatever somebody did to it. Raises KernelError, InterfaceNotFound."""
        fds = await self._kernel.run(self._restore_uplink)
        try:
            for worker in self._group.workers if fds else ():
                # One that has not seen yet that its old queue is gone would give up the new one with it.
                worker.send(self._uplink_number, QUEUES_CLOSE)
                add_queue(worker, self._uplink_number, fds.pop())
        except BaseException:
            # A TAP of which one worker has a queue would pass for whole: without any it goes, and is made anew.
            for worker in self._group.workers:
                with contextlib.suppress(ArcboxNetError, OSError):
                    worker.send(self._uplink_number, QUEUES_CLOSE)
            raise
        finally:
            for fd in fds:
                os.close(fd)
        if self.engine is not None:
            await self._kernel.run(self.engine.restore)
            self.engine.resolve_next_hops()

    def _pin(self, port: Port) -> None:
        assert isinstance(port.plan, SwitchedPlan)
        self._site.links.pin_behind(port.plan)

    def _restore_uplink(self) -> list[int]:
        fds = self._site.links.ensure_tap(self.uplink)
        try:
            for port, _ in list(self._guests.values()):
                self._pin(port)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return fds

    def _remove(self, plan: PortPlan) -> None:
        self._site.links.remove(plan.ifname)
        self._site.firewall.remove_port(plan)

    def _on_other_event(self, event: WorkerEvent) -> None:
        if event.kind != QUEUE_LOST:
            return
        log.warning("the uplink %s is gone", self._lost(event.number))
        self._is_lost_again = True
        if self._restoring is None or self._restoring.done():
            self._restoring = asyncio.get_running_loop().create_task(self._restore_until_there())

    def _lost(self, number: int) -> str:
        if self.engine is None or number == self._uplink_number:
            return self.uplink.ifname
        return self.engine.lose(number)

    async def _restore_until_there(self) -> None:
        delay_s = RESTORE_FIRST_S
        while True:
            self._is_lost_again = False
            with contextlib.suppress(ArcboxNetError, OSError):
                async with self._changing:
                    await self.restore()
                if not self._is_lost_again:
                    log.info("the uplink is there again")
                    return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RESTORE_MOST_S)
