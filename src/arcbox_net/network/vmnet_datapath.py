"""The datapath whose uplink is a vmnet interface, which the system made; it lives as long as the network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.network.datapath import Datapath
from arcbox_net.ports.vmnet.port import STATUS, VmnetPort

if TYPE_CHECKING:
    from arcbox_net.dataplane.worker_views import WorkerEvent
    from arcbox_net.network.guest_port import Port
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.service_port import ServicePort
    from arcbox_net.ports.vmnet.interface import VmnetInterface
    from arcbox_net.recipes.site import Layout, NetworkSite

log = logging.getLogger("arcbox_net.datapath")


class VmnetDatapath(Datapath):
    """The first worker has the uplink, and the *service*, if the network has one of its own.

    *lost* is called with the status that the system refuses packets with.
    """

    def __init__(
        self,
        site: NetworkSite,
        layout: Layout,
        kernel: KernelThread,
        changing: asyncio.Lock,
        interface: VmnetInterface,
        service: ServicePort | None,
        lost: Callable[[int], None],
    ) -> None:
        super().__init__(site, layout, kernel, changing, workers=site.config.workers or 1)
        self._interface = interface
        self._service = service
        self._lost = lost
        self._uplink = -1

    async def _open_uplink(self) -> None:
        place = self._group.place(0)
        self._uplink = place.add(VmnetPort(self._interface), place.sink)
        service = self._service
        self._bind_network(
            self._uplink, service=(service.add_to(place, place.sink), service.mac) if service else None
        )

    async def _close_uplink(self) -> None:
        """The interface is whose network it is."""
        if self._service is not None:
            self._service.leave()

    async def _admit(self, port: Port) -> None:
        """The system lets every MAC address through."""

    async def _dismiss(self, port: Port) -> None:
        """Nothing was said of it."""

    def _on_other_event(self, event: WorkerEvent) -> None:
        if event.number == self._uplink and event.kind == STATUS:
            log.error("vmnet refuses packets with status %d", event.value)
            self._lost(event.value)
