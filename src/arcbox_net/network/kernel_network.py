"""A network in the Linux kernel: bridge, ruleset, our own services, and what repairs them; see `Network`.

Start: rows of an earlier run, kernel state in one go, services, forwards. What survives a kill is found again by
name: links by alias, tables by name, rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import time
from typing import TYPE_CHECKING, Any

from arcbox_net.config import Egress
from arcbox_net.config_dhcp import Reservation
from arcbox_net.config_mapping import config_to_mapping
from arcbox_net.errors import InterfaceNotFound
from arcbox_net.host.linux import conntrack, namespace
from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.network import messages as m
from arcbox_net.network.core import Network, former_reservations
from arcbox_net.network.kernel_attaching import KernelAttaching
from arcbox_net.network.lock import exclusive
from arcbox_net.network.ports import PortTable
from arcbox_net.network.reconcile import adopt_ports, attach_again, remove_everything
from arcbox_net.network.state import RUNNING
from arcbox_net.network.watch import Watch
from arcbox_net.recipes import recipe_for
from arcbox_net.recipes.site import Contents, Layout, Site

if TYPE_CHECKING:
    from arcbox_net.network.forwarding import Forwarding
    from arcbox_net.network.ipv6 import Ipv6
    from arcbox_net.recipes.relay import RelayEgress

log = logging.getLogger("arcbox_net")
FOREIGN_EVERY_S = 2.0
SERVING = (
    "arcbox_net.network.addressing",
    "arcbox_net.network.ipv6",
    "arcbox_net.network.naming",
    "arcbox_net.network.forwarding",
    "arcbox_net.services.dns.service",
    "arcbox_net.services.dns.sockets",
)


class KernelNetwork(Network):
    """See the module's docstring."""

    hands_over_taps = True
    _attaching: KernelAttaching
    _forwarding: Forwarding | None
    _site: Site

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._recipe = recipe_for(self.config.mode)
        self._egress: RelayEgress | None = None
        self._ipv6: Ipv6 | None = None
        self._watch: Watch | None = None
        self._bridge_index = 0
        self._former_reservations: tuple[Reservation, ...] = ()
        self._foreign: tuple[float, list[m.Warning_]] = (0.0, [])

    async def _build(self) -> None:
        # The kernel's work mostly waits, and importing what serves guests takes as long: both at once.
        if self._is_private:
            self._kernel.prepare_private()
        kernel = asyncio.ensure_future(self._kernel.run(self._start_kernel))
        await asyncio.sleep(0)
        for module in SERVING:
            importlib.import_module(module)
        await kernel
        if self._egress is not None:
            self._egress.start()
        await self._start_services()
        await self._start_forwards()
        assert self._ipv6 is not None
        self._watch = Watch(
            self._site.firewall,
            self._layout,
            self._repair,
            self._links_changed,
            self._surroundings_changed,
            bridge_came_up=self._ipv6.bridge_came_up,
            kernel=self._kernel,
        )
        await self._watch.start()
        # What changed since they were told, nobody noticed.
        await self._keep_off_the_host()
        await self._follow_uplink()

    def _start_kernel(self) -> None:
        surroundings = Links()
        self._site = Site(
            network=self.name,
            config=self.config,
            links=surroundings,
            surroundings=surroundings,
            firewall=Firewall(self.name),
            journal=self._state,
            record_dir=self._record_dir,
            live_networks=self._live_networks,
            is_private=self._is_private,
        )
        # Two networks that start at once must not both find the same subnet free.
        with exclusive(self._record_dir / "start.lock"):
            self._choose_layout()
            self._apply_layout()

    def _choose_layout(self) -> None:
        """Decide what the network is, looking at the host; of an earlier run only what fits it stays."""
        meta = self._state.items("meta")
        self._former_reservations = former_reservations(meta)
        previous = Layout.remembered(meta)
        layout = self._recipe.choose(self._site, previous)
        if previous is not None and previous != layout and not previous.is_private:
            remove_everything(self._site, previous)
        netns = {"inode": namespace.current_inode()}
        if self._is_private:
            self._kernel.enter()
            self._site.links = Links()
        self._layout = layout
        self._ports = PortTable(self._site, layout)
        self._state.put_all(
            "meta",
            {
                "layout": layout.to_json(),
                "config": config_to_mapping(self.config),
                "netns": netns,
                RUNNING: {"since": time.time()},
            },
        )

    def _apply_layout(self) -> None:
        site, layout = self._site, self._layout
        if not self._is_private:
            adopt_ports(site, self._state, self._ports, site.links.owned(self.name))
        if layout.egress == Egress.RELAY.value:
            self._open_egress()
        self._recipe.apply(site, layout, self._contents())
        for port in self._ports:
            if port.socket is None:
                site.links.apply_port(port.plan)
        self._bridge_index = site.links.find_bridge(layout.bridge)
        if self._is_private:
            attach_again(site, self._state, self._ports)

    def _open_egress(self) -> None:
        from arcbox_net.recipes.relay import RelayEgress

        egress = RelayEgress(self._site, self._layout)
        egress.open()
        egress.set_host_addresses(self._site.surroundings.host_addresses())
        self._egress = egress

    async def _start_services(self) -> None:
        from arcbox_net.network.ipv6 import Ipv6
        from arcbox_net.network.naming import Naming
        from arcbox_net.services.dhcp.link import InterfaceLink

        config, layout = self.config, self._layout
        registered = await self._registered_names()
        self._naming = Naming(self.name, config, layout, registered, self._kernel.place)
        if layout.gateway is not None:
            link = InterfaceLink(layout.bridge, layout.gateway, self._kernel.place)
            await self._start_addressing(config, link, self._former_reservations)
        self._name_ports()
        await self._naming.start()
        self._attaching = KernelAttaching(
            self._site,
            self._layout,
            self._ports,
            self._state,
            self._kernel,
            self._addressing,
            self._naming,
            changing=self._change,
            awaited=self._awaited,
            guests_changed=self._guests_changed,
            dnats=lambda: self._forwarding.dnats() if self._forwarding else (),
            holder_ended=lambda name: self._spawn(self._detach_unheld(name)),
        )
        self._ipv6 = Ipv6(self.name, config, layout, self._naming.domain, self._kernel.place)
        await self._ipv6.start()
        await self._attaching.listen_again()

    async def _start_forwards(self) -> None:
        from arcbox_net.network.forwarding import Forwarding

        self._forwarding = Forwarding(
            self._site,
            self._layout,
            self._state,
            self._kernel,
            self._ports,
            self._addressing,
            self._naming,
            self._publish,
        )
        await self._forwarding.start()

    async def _tear_down(self) -> None:
        if self._watch is not None:
            await self._watch.stop()
        for service in (
            getattr(self, "_attaching", None),
            self._ipv6,
            getattr(self, "_naming", None),
            self._addressing,
        ):
            if service is not None:
                try:
                    await service.stop()
                except Exception:
                    log.exception("a service did not stop as it should")
        await self._kernel.run(self._tear_down_kernel)
        self._kernel.shutdown()

    def _tear_down_kernel(self) -> None:
        if self._forwarding is not None:
            self._forwarding.close()
        if self._egress is not None:
            self._egress.stop()
        if hasattr(self, "_layout"):
            remove_everything(self._site, self._layout)
            self._state.forget_run()
        if hasattr(self, "_site"):
            self._site.close()

    # -- looking in ------------------------------------------------------------------------------------------

    @property
    def _has_ipv6_egress(self) -> bool:
        return self._ipv6 is not None and self._ipv6.has_egress

    async def _engine_info(self) -> m.EngineInfo | None:
        async with self._change:  # the last guest takes the engine with it
            return await self._attaching.engine_info()

    async def flows(self) -> list[m.FlowInfo]:
        """What guests are connected to outside, and, with relay egress, the last flows that ended."""
        if self._egress is not None:
            rows = await asyncio.to_thread(self._egress.flows)
            return [m.FlowInfo(**row | {"reason": row["reason"] or None}) for row in rows]
        async with self._change:
            if self._attaching.engine is not None:
                return await asyncio.to_thread(self._attaching.engine.flows)
        if self._layout.egress != Egress.MASQUERADE.value:
            return []
        from arcbox_net.host.linux.conntrack_flows import guest_flows

        subnets = [subnet for subnet in (self._layout.subnet, self._layout.subnet6) if subnet]
        return [m.FlowInfo(**row) for row in await self._kernel.run(guest_flows, subnets)]

    async def _more_stats(self) -> dict[str, Any]:
        async with self._change:
            engine = await self._attaching.engine_stats()
        return {
            "ra": self._ipv6.stats() if self._ipv6 else {},
            "egress": self._egress.stats() if self._egress else {},
            "engine": engine,
            "host": self._watch.stats() if self._watch else {},
            "firewall_drops": await self._kernel.run(self._site.firewall.drops),
            "conntrack": await self._kernel.run(_conntrack_stats),
        }

    async def _more_warnings(self) -> list[m.Warning_]:
        return await self._kernel.run(self._kernel_warnings)

    def _kernel_warnings(self) -> list[m.Warning_]:
        found = conntrack.room()
        if found is None or not found.is_nearly_full:
            return self._foreign_warnings()
        message = f"the kernel follows {found}: it drops new ones when that is full"
        full = m.Warning_(code="conntrack-full", message=message, fix=found.fix)
        return [full, *self._foreign_warnings()]

    def _foreign_warnings(self) -> list[m.Warning_]:
        """What other firewalls do to us: asked at most every FOREIGN_EVERY_S, because it lists their rulesets."""
        from arcbox_net.host.linux.foreign import foreign_drops

        asked, known = self._foreign
        now = time.monotonic()
        if not asked or now - asked > FOREIGN_EVERY_S:
            known = [
                m.Warning_(code=drop.code, message=drop.message, fix=drop.fix)
                for drop in foreign_drops(self._layout.bridge, ipv6=self._has_ipv6_egress)
            ]
            self._foreign = (now, known)
        return known

    # -- events ----------------------------------------------------------------------------------------------

    def _publish(self, tcp: list[tuple[str, int]], udp: list[tuple[str, int]]) -> None:
        """Let guests reach the host's addresses where a forward is, and the engine forward."""
        self._attaching.forwards_changed()
        if self._egress is not None:
            self._egress.set_published(tcp, udp)

    async def _repair(self) -> None:
        """Make the kernel look as planned again: somebody flushed a table or deleted a link."""
        async with self._change:
            if self._egress is not None and not await self._kernel.run(self._egress.is_whole):
                log.warning("a door of the relay is gone; it is made anew, without the flows of before")
                self._egress.stop()
                await self._kernel.run(self._open_egress)
                self._egress.start()
                if self._forwarding is not None:
                    self._forwarding.publish()
            bridge_index = await self._kernel.run(self._repair_kernel)
            await self._attaching.restore()
            if bridge_index != self._bridge_index:
                for service in (self._addressing, self._ipv6):
                    if service is not None:
                        await service.rebind()
                self._bridge_index = bridge_index  # not before: a repair that failed is made once more, whole

    async def _surroundings_changed(self) -> None:
        """RFC 4787 REQ-7: the host may have joined a network that overlaps ours; say so instead of failing silently."""
        await self._keep_off_the_host()
        async with self._change:
            await self._follow_uplink()
        warnings = []
        for subnet, option in ((self._layout.subnet, "--subnet"), (self._layout.subnet6, "--subnet6")):
            if subnet is None:
                continue
            clashes = await self._kernel.run(self._site.surroundings.conflicts, subnet, {self._layout.bridge})
            warnings += [
                m.Warning_(
                    code="subnet-conflict",
                    message=f"{clash} overlaps this network's {subnet}",
                    fix=f"move this network: arcbox-net down, then up with another {option}",
                )
                for clash in clashes[:1]
            ]
        self._warnings = warnings

    async def _follow_uplink(self) -> None:
        """Lead the engine's packets where the host's routes lead, and guests' IPv6 to it while that is somewhere."""
        uplink = await self._attaching.follow_uplink()
        if self._ipv6 is not None:
            self._ipv6.set_engine_egress(uplink is not None and uplink.next_hop6 is not None)

    async def _keep_off_the_host(self) -> None:
        """Keep guests away from every address that is the host's now."""
        if self._egress is not None:
            addresses = await self._kernel.run(self._site.surroundings.host_addresses)
            self._egress.set_host_addresses(addresses)

    def _repair_kernel(self) -> int:
        self._recipe.apply(self._site, self._layout, self._contents())
        for port in self._ports:
            if port.socket is not None:
                continue
            with contextlib.suppress(InterfaceNotFound):  # its client closed it: _links_changed detaches it
                self._site.links.apply_port(port.plan)
        return self._site.links.find_bridge(self._layout.bridge)

    async def _links_changed(self) -> bool:
        """Detach ports whose device is gone: the monitor closed its TAP, or the namespace ended.

        True when one that is there has been taken out of the bridge.
        """
        async with self._change:
            await self._attaching.detach_gone()
            return await self._attaching.is_one_outside(self._layout.bridge)

    def _contents(self) -> Contents:
        forwards = self._forwarding
        own = self._attaching.own_plans if hasattr(self, "_attaching") else ()
        return Contents(
            ports=tuple(port.plan for port in self._ports) + own,
            dnats=forwards.dnats() if forwards else (),
            redirects=forwards.redirects() if forwards else (),
            relay=self._egress.plan if self._egress else None,
        )


def _conntrack_stats() -> dict[str, int]:
    """How full the kernel's table of connections is, where this network is."""
    found = conntrack.room()
    return {} if found is None else {"used": found.used, "max": found.limit}
