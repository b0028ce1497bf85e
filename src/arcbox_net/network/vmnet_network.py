"""A network of macOS: made by vmnet, with guests at sockets of our switch before it; see `Network`.

Start: state, the interface, workers, addresses, guests of an earlier run, forwards. The system removes its part with
the process, so after a kill only rows are left: guests at sockets are let in again, and forwards are made anew.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import msgspec

from arcbox_net.config_mapping import config_to_mapping
from arcbox_net.errors import ArcboxNetError, Unsupported
from arcbox_net.network import messages as m
from arcbox_net.network.core import Network
from arcbox_net.network.naming import Naming
from arcbox_net.network.ports import PortTable
from arcbox_net.network.state import RUNNING
from arcbox_net.network.vmnet_addresses import VmnetAddresses
from arcbox_net.network.vmnet_attaching import VmnetAttaching
from arcbox_net.network.vmnet_datapath import VmnetDatapath
from arcbox_net.network.vmnet_forwards import VmnetForwards
from arcbox_net.recipes.site import Layout, NetworkSite
from arcbox_net.recipes.vmnet import VmnetRecipe

if TYPE_CHECKING:
    from arcbox_net.ports.vmnet.interface import VmnetInterface

log = logging.getLogger("arcbox_net")


class VmnetBackedNetwork(Network):
    """See the module's docstring."""

    _attaching: VmnetAttaching
    _addressing: VmnetAddresses | None
    _forwarding: VmnetForwards | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._site = NetworkSite(network=self.name, config=self.config)
        self._interface: VmnetInterface | None = None

    async def _build(self) -> None:
        self._interface = await self._kernel.run(self._open_interface)
        self._ports = PortTable(self._site, self._layout)
        self._naming = Naming(self.name, self.config, self._layout, {}, serves=False)
        if self._layout.address is not None:
            reservations = self.config.dhcp.reservations
            self._addressing = VmnetAddresses(self._layout, reservations, self._lease_changed)
        await self._start_guests()
        self._forwarding = VmnetForwards(
            self._layout, self._state, self._kernel, self._interface, self._resolve
        )
        await self._forwarding.start(self.config.forwards)
        if self._addressing is not None:
            await self._addressing.start()

    def _open_interface(self) -> VmnetInterface:
        meta = self._state.items("meta")
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
            self._site, self._layout, self._kernel, self._change, self._interface, self._packets_refused
        )
        await datapath.open()
        self._attaching.open(datapath)
        await self._restore_ports()
        self._name_ports()
        await self._attaching.listen_again()

    async def _restore_ports(self) -> None:
        """Those of an earlier run. One whose address is none of this network's any more is given up."""
        rows = await self._kernel.run(self._state.items, "ports")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["attached_ns"]):
            port = self._ports.restore(name, row)
            try:
                if port.ip is not None and self._addressing is not None:
                    await self._addressing.allocate(
                        f"port:{name}", ip=str(port.ip), mac=port.plan.mac, hostname=None, port=name
                    )
            except ArcboxNetError as error:
                log.error("port %s of the earlier run is gone: %s", name, error)
                await self._kernel.run(self._state.delete, "ports", name)
                continue
            self._ports.add(port)

    async def _tear_down(self) -> None:
        for part in (self._forwarding, getattr(self, "_attaching", None), self._addressing):
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

    async def ports(self) -> list[m.PortInfo]:
        """Every port, with the address that the system gave it if it has none of its own."""
        return [
            msgspec.structs.replace(port, ip=str(leased)) if (leased := self._leased(port)) else port
            for port in await super().ports()
        ]

    def _leased(self, port: m.PortInfo) -> IPv4Address | None:
        return self._addressing.of_mac(port.mac) if port.ip is None and self._addressing else None

    async def register_dns(self, name: str, addresses: list[str]) -> m.DnsRecordInfo:
        raise _no_names()

    async def deregister_dns(self, name: str) -> None:
        raise _no_names()

    def dns_records(self) -> list[m.DnsRecordInfo]:
        return []

    async def flows(self) -> list[m.FlowInfo]:
        """The system does not say."""
        return []

    async def _more_stats(self) -> dict[str, Any]:
        assert self._interface is not None
        facts = self._interface.facts
        return {
            "vmnet": {
                "mac": facts.mac,
                "mtu": facts.mtu,
                "max_packet_bytes": facts.max_packet_bytes,
                "virtio_headers": facts.virtio_headers,
            }
        }

    def _packets_refused(self, status: int) -> None:
        self._warnings = [
            m.Warning_(
                code="vmnet",
                message=f"the system refuses packets (status {status}): guests are cut off",
                fix=f"start the network anew: arcbox-net down {self.name}, then up",
            )
        ]

    def _resolve(self, guest: str | None) -> IPv4Address | IPv6Address | None:
        """The address that a forward's guest has now, None while it has none."""
        port = self._ports.first() if guest is None else None
        if guest is not None:
            try:
                return ipaddress.ip_address(guest)
            except ValueError:
                port = self._ports.of_guest(guest)
            if port is None:
                return self._naming.leased(guest)
        if port is None or self._addressing is None:
            return None
        return port.ip or self._addressing.of_mac(port.plan.mac)

    def _lease_changed(self, hostname: str | None, ip: IPv4Address, active: bool, mac: bytes | None) -> None:
        self._naming.lease_changed(hostname, ip, active, mac)
        self._spawn(self._guests_changed_locked())  # the system's server tells of MAC addresses, not of ports


def _no_names() -> ArcboxNetError:
    return Unsupported(
        "on macOS the system's DNS proxy answers guests, and takes no names of ours",
        fix="write the name into the guest's /etc/hosts",
        feature="DNS names",
    )
