"""Egress by the NAT engine: guests leave by an interface of the host, with an address of their own.

What guests send to the gateway's MAC and beyond the subnet goes to a router, a port of the worker, and through the
engine to a packet socket on the uplink, where the router answers for the external address with a MAC of its own. From
guests at sockets the switch gives it to the router; from guests with devices of the kernel the bridge leads it to the
router's leg, a TAP, by a rule that changes its destination MAC to the leg's. What is for the gateway itself (DHCP, DNS,
the host) goes to the bridge as ever. The engine is the worker's: it is looked at while the worker is paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from arcbox_net.addresses import bridge_mac, parse_mac, stable_mac
from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.router import Router
from arcbox_net.dataplane.router_config import RouterConfig, Told, Way
from arcbox_net.dataplane.verdict import Verdict
from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux.next_hops import NextHops, Standing
from arcbox_net.host.linux.packet import open_packet
from arcbox_net.host.linux.tap import takes_uso
from arcbox_net.host.plan import ETHERNET_BYTES, GATEWAY_LINK_LOCAL
from arcbox_net.network.engine_flows import list_flows
from arcbox_net.network.engine_log import REPORT_S, ExhaustionLog
from arcbox_net.network.messages import EngineInfo, FlowInfo
from arcbox_net.ports.packet import PacketPort
from arcbox_net.ports.queues import QUEUE_ADD
from arcbox_net.ports.tap import TapPort
from arcbox_net.recipes.engine import leg_plan

if TYPE_CHECKING:
    from arcbox_net.dataplane.nat_views import NatForward
    from arcbox_net.dataplane.port_binding import Control
    from arcbox_net.dataplane.switch import Switch
    from arcbox_net.dataplane.worker_group import Place
    from arcbox_net.host.plan import Dnat
    from arcbox_net.network.guest_port import Port
    from arcbox_net.recipes.engine import EngineUplink
    from arcbox_net.recipes.site import Layout, Site

_DROPS = [
    verdict.name.removeprefix("DROP_").lower()
    for verdict in Verdict
    if Verdict.DROP_FIRST <= verdict < Verdict.VERDICTS
]
log = logging.getLogger("arcbox_net.datapath")


class EngineEgress:
    """The way out of one network. `number`: the router's port of the worker, from `open` on. `uplink`: as it is now."""

    def __init__(
        self, site: Site, layout: Layout, uplink: EngineUplink, worker: Place, switch: Switch
    ) -> None:
        assert layout.subnet is not None and layout.gateway is not None
        self._site = site
        self._layout = layout
        self._worker = worker
        self._switch = switch
        self.number = -1
        self.uplink = uplink
        self._mtu_max = uplink.mtu  # what the packet socket was opened for
        self._mac = stable_mac(site.network, f"@engine {uplink.ifname}")
        self.leg = leg_plan(site, layout)
        self._router: Router
        self._leg_number = -1
        self._uplink_number = -1
        self._reporting: asyncio.Task[None] | None = None
        self._is_lost = True
        self._dnats: Sequence[Dnat] = ()
        self._forwards: dict[Dnat, NatForward] = {}
        self._engine = NatEngine(self._config())
        self._next_hops = NextHops(self._told)

    def open(self) -> None:
        """Add the router and its uplink to the worker."""
        self._router = router = Router(self._engine)
        self.number = self._worker.add(router, self._switch)
        self._switch.bind(self._worker, self.number, PortBinding("router"))
        kind = TapPort if self.uplink.is_tap else PacketPort
        port = kind(frame_max=self.uplink.mtu + ETHERNET_BYTES, uso=takes_uso())
        self._uplink_number = self._worker.add(port, router.outside)
        leg = TapPort(frame_max=self._site.config.mtu + ETHERNET_BYTES, uso=takes_uso())
        self._leg_number = self._worker.add(leg, router.inside)
        self._set_up()
        self._reporting = asyncio.get_running_loop().create_task(self._report())

    def follow(self, uplink: EngineUplink) -> None:
        """The host's interface is as *uplink* says now: its next hop and its MTU, which is followed downwards only."""
        if uplink == self.uplink:
            return
        before, self.uplink = self.uplink, uplink
        try:
            self._apply()
        except BaseException:
            self.uplink = before  # the next change is compared with what holds
            with contextlib.suppress(ArcboxNetError, OSError):
                self._apply()
            raise
        self.resolve_next_hops()
        hops = ", ".join(str(hop) for hop in (uplink.next_hop, uplink.next_hop6) if hop) or "none"
        log.info("the engine's uplink %s: MTU %d, next hops: %s", uplink.ifname, uplink.mtu, hops)

    def stats(self) -> dict[str, int]:
        """The engine's counters, and packets for whom nobody answered."""
        with self._worker.paused():
            counted = self._engine.stats()
        out, to_guests = self._router.unresolved
        return counted | {"unresolved_out": out, "unresolved_in": to_guests}

    def info(self, uplink_state: str) -> EngineInfo:
        """The engine, with what the host says of its uplink."""
        counted, uplink = self.stats(), self.uplink
        drops = {name.replace("_", " "): counted[name] for name in _DROPS if counted[name]}
        unresolved = counted["unresolved_out"] + counted["unresolved_in"]
        return EngineInfo(
            uplink=uplink.ifname,
            uplink_state=uplink_state,
            mtu=min(uplink.mtu, self._mtu_max),
            external=[str(one.ip) for one in (uplink.external, uplink.external6) if one],
            next_hops=[str(hop) for hop in (uplink.next_hop, uplink.next_hop6) if hop],
            flows=counted["flows"],
            mappings=counted["mappings"],
            guests=counted["guests"],
            translated=counted["forward"] + counted["hairpin"],
            drops=drops | ({"unresolved": unresolved} if unresolved else {}),
        )

    def _config(self) -> NatEngineConfig:
        config, uplink = self._site.config, self.uplink
        return NatEngineConfig(
            external_ip=str(uplink.external.ip),
            inside=str(self._layout.subnet),
            gateway=str(self._layout.gateway),
            external_ip6=str(uplink.external6.ip) if uplink.external6 else None,
            inside6=str(self._layout.subnet6) if uplink.external6 else None,
            gateway6=str(self._layout.gateway6) if uplink.external6 else None,
            filtering=config.filtering or NatEngineConfig.filtering,
            mtu=config.mtu,
            uplink_mtu=min(uplink.mtu, self._mtu_max),
            isolated=config.isolated,
        )

    def _apply(self) -> None:
        """Make engine and router what `uplink` asks for."""
        with self._worker.paused():
            self._remove_forwards()
            self._engine.reconfigure(self._config())
            self._add_forwards()
        self._set_up()

    def _set_up(self) -> None:
        uplink, layout = self.uplink, self._layout
        self._router.set_up(
            self._worker,
            self.number,
            RouterConfig(
                uplink=self._uplink_number,
                uplink_mac=self._mac,
                gateway_mac=bridge_mac(self._site.network),
                external=(uplink.external, *((uplink.external6,) if uplink.external6 else ())),
                next_hop=uplink.next_hop,
                next_hop6=uplink.next_hop6,
                gateway=layout.gateway,
                gateways6=(GATEWAY_LINK_LOCAL.ip, layout.gateway6) if layout.gateway6 else (),
                leg=self._leg_number,
                leg_mac=self.leg.mac,
            ),
        )

    def resolve_next_hops(self) -> None:
        """Follow what the kernel knows of neighbours on the uplink. What it does not, the router finds out itself.

        Called in the loop, when the uplink is there; also when it may be another one.
        """
        uplink = self.uplink
        if uplink.is_tap:  # the kernel is behind it
            return
        networks = [one.network for one in (uplink.external, uplink.external6) if one]
        try:
            self._next_hops.watch(uplink.ifname, uplink.by_kernel, networks)
        except (ArcboxNetError, OSError) as error:
            log.warning("the neighbours on %s are not the kernel's: %s", uplink.ifname, error)

    def _told(self, ip: IPv4Address | IPv6Address, said: str | Standing) -> None:
        """The kernel says so of a neighbour."""
        log.debug("neighbour %s: %s", ip, said)
        told = Told[said.name] if isinstance(said, Standing) else said
        try:
            self._router.set_neighbour(self._worker, self.number, str(ip), told)
        except OSError as error:
            if told is not Told.UNKNOWN:
                log.warning("neighbour %s: %s", ip, error)

    def close(self) -> None:
        """Say nothing more in the log, nor to the router."""
        self._next_hops.stop()
        if self._reporting is not None:
            self._reporting.cancel()

    def add_guest(self, port: Port) -> None:
        """A guest with a device of the kernel: it can be reached before it speaks."""
        for ip in port.addresses:
            self._router.set_neighbour(self._worker, self.number, str(ip), port.plan.mac, way=Way.LEG)

    def remove_guest(self, port: Port) -> None:
        for ip in port.addresses:
            with contextlib.suppress(OSError):  # it was never told
                self._router.set_neighbour(self._worker, self.number, str(ip), Told.UNKNOWN, way=Way.LEG)

    def restore(self) -> None:
        """Called in the kernel thread: open what is lost. Raises KernelError, PermissionDenied."""
        for leg_fd in self._site.links.ensure_tap(self.leg):
            add_queue(self._worker, self._leg_number, leg_fd)
        if self._is_lost:
            self._set_up()  # who is there may be somebody else now
            fd = self._open_uplink()
            self._is_lost = False  # first: it may be lost again at once
            try:
                add_queue(self._worker, self._uplink_number, fd)
            except BaseException:
                self._is_lost = True
                raise

    def _open_uplink(self) -> int:
        if self.uplink.is_tap:
            return self._site.surroundings.open_foreign_tap(self.uplink.ifname)
        return open_packet(self.uplink.ifname, [parse_mac(self._mac)])

    def lose(self, number: int) -> str:
        """The device of that port is gone: `restore` opens it anew. Returns its name."""
        if number == self._leg_number:
            return self.leg.ifname
        self._is_lost = True
        return self.uplink.ifname

    def set_forwards(self, dnats: Sequence[Dnat]) -> None:
        """Send these ports of the external addresses to guests, and no others."""
        self._dnats = dnats
        with self._worker.paused():
            self._remove_forwards()
            self._add_forwards()

    def _wanted(self) -> set[Dnat]:
        """Those forwards that are of an address which the engine has now."""
        uplink = self.uplink
        externals = {4: uplink.external.ip, 6: uplink.external6.ip if uplink.external6 else None}
        return {
            dnat
            for dnat in self._dnats
            if (external := externals[dnat.guest_ip.version]) and dnat.host_ip in (None, external)
        }

    def _remove_forwards(self) -> None:
        for dnat in self._forwards.keys() - self._wanted():
            self._engine.remove_forward(self._forwards.pop(dnat))

    def _add_forwards(self) -> None:
        for dnat in self._wanted() - self._forwards.keys():
            try:
                self._forwards[dnat] = self._engine.add_forward(
                    dnat.protocol, dnat.host_port, str(dnat.guest_ip), dnat.guest_port
                )
            except ArcboxNetError as error:  # a flow has the port: tried again with the next change
                log.error("%s port %d is not forwarded yet: %s", dnat.protocol, dnat.host_port, error)

    async def _report(self) -> None:
        said = ExhaustionLog()
        while True:
            await asyncio.sleep(REPORT_S)
            line = said.line(self.stats())
            if line is not None:
                log.warning("%s: %s", self.uplink.ifname, line)

    def flows(self) -> list[FlowInfo]:
        """Guests' flows, the first FLOWS_LISTED_MAX of them."""
        return list_flows(self._engine, self._worker)


def add_queue(worker: Control, number: int, fd: int) -> None:
    """Give *fd* to the port *number*; it is closed if the port does not take it. Raises OSError."""
    try:
        worker.send(number, QUEUE_ADD, struct.pack("i", fd))
    except BaseException:
        os.close(fd)
        raise
