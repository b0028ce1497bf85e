"""A network of macOS: made by vmnet, with guests at sockets of our switch before it; see `Network`.

Start: state, the interface, names, addresses, workers, guests of an earlier run, forwards. The system removes its part
with the process, so after a kill only rows are left: guests at sockets are let in again, and forwards are made anew.
Guests' DHCP and DNS are answered by a port of our own on the switch; a bridged network has none.
"""

from __future__ import annotations

import logging
import time
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from arcbox_net.addresses import bridge_mac
from arcbox_net.config_mapping import config_to_mapping
from arcbox_net.network import messages as m
from arcbox_net.network.core import Network, former_reservations
from arcbox_net.network.naming import Naming
from arcbox_net.network.ports import PortTable
from arcbox_net.network.resolving import Resolver
from arcbox_net.network.service_port import ServicePort
from arcbox_net.network.state import RUNNING
from arcbox_net.network.system_leases import SystemLeases
from arcbox_net.network.vmnet_attaching import VmnetAttaching
from arcbox_net.network.vmnet_datapath import VmnetDatapath
from arcbox_net.network.vmnet_forwards import VmnetForwards
from arcbox_net.recipes.site import Layout, NetworkSite
from arcbox_net.recipes.vmnet import VmnetRecipe, with_pool

if TYPE_CHECKING:
    from arcbox_net.config_dhcp import Reservation
    from arcbox_net.ports.vmnet.interface import VmnetInterface

log = logging.getLogger("arcbox_net")


class VmnetBackedNetwork(Network):
    """See the module's docstring."""

    _attaching: VmnetAttaching
    _forwarding: VmnetForwards | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._site = NetworkSite(network=self.name, config=self.config)
        self._interface: VmnetInterface | None = None
        self._former_reservations: tuple[Reservation, ...] = ()
        self._service: ServicePort | None = None
        self._system_leases: SystemLeases | None = None

    async def _build(self) -> None:
        self._interface = await self._kernel.run(self._open_interface)
        self._ports = PortTable(self._site, self._layout)
        self._naming = Naming(
            self.name, self.config, self._layout, await self._registered_names(), listens=False
        )
        await self._restore_ports()
        await self._start_services()
        await self._start_guests()
        resolve = Resolver(self._ports, self._addressing, self._naming)
        self._forwarding = VmnetForwards(self._layout, self._state, self._kernel, self._interface, resolve)
        await self._forwarding.start(self.config.forwards)

    def _open_interface(self) -> VmnetInterface:
        meta = self._state.items("meta")
        self._former_reservations = former_reservations(meta)
        previous = Layout.remembered(meta)
        interface, self._layout = VmnetRecipe().open(self._site, previous)
        try:
            self._state.put_all(
                "meta",
                {
                    "layout": self._layout.to_json(),
                    "config": config_to_mapping(self.config),
                    RUNNING: {"since": time.time()},
                },
            )
        except BaseException:
            interface.stop()
            raise
        return interface

    async def _start_services(self) -> None:
        layout = self._layout
        if layout.gateway is not None and layout.subnet is not None:
            self._service = ServicePort(layout.gateway, bridge_mac(self.name), self.config.mtu)
            if self._naming.is_served:
                self._service.ask = self._naming.ask
            config = with_pool(self.config, layout.subnet)
            await self._start_addressing(config, self._service, self._former_reservations)
            self._system_leases = SystemLeases(layout.subnet, self._pool().keep_off)
            self._system_leases.start()
        self._name_ports()
        await self._naming.start()

    async def _start_guests(self) -> None:
        assert self._interface is not None
        self._attaching = VmnetAttaching(
            self._ports,
            self._state,
            self._kernel,
            self._addressing,
            self._naming,
            changing=self._change,
            awaited=self._awaited,
            guests_changed=self._guests_changed,
            holder_ended=lambda name: self._spawn(self._detach_unheld(name)),
        )
        datapath = VmnetDatapath(
            self._site,
            self._layout,
            self._kernel,
            self._change,
            self._interface,
            self._service,
            self._packets_refused,
        )
        await datapath.open()
        self._attaching.open(datapath)
        await self._attaching.listen_again()

    async def _restore_ports(self) -> None:
        """Those of an earlier run. One whose address is none of this network's any more is given up."""
        rows = await self._kernel.run(self._state.items, "ports")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["attached_ns"]):
            port = self._ports.restore(name, row)
            if self._layout.gateway is None or (port.ip and self._layout.is_guest_address(port.ip)):
                self._ports.add(port)
                continue
            log.error("port %s of the earlier run is gone: %s is not of this network", name, port.ip)
            await self._kernel.run(self._state.delete, "ports", name)

    async def _tear_down(self) -> None:
        for part in (
            self._forwarding,
            getattr(self, "_attaching", None),
            self._system_leases,
            getattr(self, "_naming", None),
            self._addressing,
        ):
            if part is not None:
                try:
                    await part.stop()
                except Exception:
                    log.exception("a part did not stop as it should")
        try:
            await self._kernel.run(self._close_interface)
        finally:
            self._kernel.shutdown()

    def _close_interface(self) -> None:
        interface, self._interface = self._interface, None
        if interface is None:
            return
        try:
            interface.stop()
        finally:
            self._state.forget_run()

    # -- what the system does --------------------------------------------------------------------------------

    def leases(self) -> list[m.LeaseInfo]:
        """Ours, and those that the system's server gave in our subnet."""
        found = {lease.ip: lease for lease in (self._system_leases.view() if self._system_leases else [])}
        found |= {lease.ip: lease for lease in super().leases()}
        return sorted(found.values(), key=lambda lease: IPv4Address(lease.ip))

    async def flows(self) -> list[m.FlowInfo]:
        """The system does not say."""
        return []

    async def _more_stats(self) -> dict[str, Any]:
        assert self._interface is not None
        facts = self._interface.facts
        return {
            "service": self._service.stats() if self._service else {},
            "vmnet": {
                "mac": facts.mac,
                "mtu": facts.mtu,
                "max_packet_bytes": facts.max_packet_bytes,
                "virtio_headers": facts.virtio_headers,
            },
        }

    def _packets_refused(self, status: int) -> None:
        self._warnings = [
            m.Warning_(
                code="vmnet",
                message=f"the system refuses packets (status {status}): guests are cut off",
                fix=f"start the network anew: arcbox-net down {self.name}, then up",
            )
        ]
