"""Port forwards and host access while a network runs: who a rule's guest is now, rows, and the relays that serve.

Whoever calls holds the network's lock.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.errors import ArcboxNetError, ConfigError
from arcbox_net.network.resolving import Resolver, address_or_none
from arcbox_net.network.views import forward_info
from arcbox_net.recipes.port_forward import PortForwards
from arcbox_net.relay.splice import SpliceRelay
from arcbox_net.rules import ForwardRule, parse_forward

if TYPE_CHECKING:
    from arcbox_net.host.plan import Dnat, HostAccessRedirect
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.kernel_thread import KernelThread
    from arcbox_net.network.messages import ForwardInfo
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.ports import PortTable
    from arcbox_net.network.state import State
    from arcbox_net.recipes.site import Layout, Site

RELAY_THREADS_MAX = 4
log = logging.getLogger("arcbox_net")
Published = list[tuple[str, int]]


class Forwarding:
    """Made outside. `publish(tcp, udp)` is told where guests meet forwards at the host's own addresses."""

    def __init__(
        self,
        site: Site,
        layout: Layout,
        state: State,
        kernel: KernelThread,
        ports: PortTable,
        addressing: Addressing | None,
        naming: Naming,
        publish: Callable[[Published, Published], None],
    ) -> None:
        self._config = site.config
        self._layout = layout
        self._state = state
        self._kernel = kernel
        self._resolve = Resolver(ports, addressing, naming)
        self._publish = publish
        subnets = [str(subnet) for subnet in (layout.subnet, layout.subnet6) if subnet]
        # In a private network all of a forward's bytes pass through it, else only those of the host's own programs.
        threads = min(RELAY_THREADS_MAX, os.cpu_count() or 1) if site.is_private else 1
        self._relay = SpliceRelay(threads=threads, netns_fd=kernel.netns_fd, guest_subnets=subnets)
        self._access_relay = SpliceRelay() if site.is_private and self._config.host_access else None
        self._forwards = PortForwards(
            site.firewall,
            self._relay,
            access_relay=self._access_relay,
            outside=kernel.outside if site.is_private else None,
            routed=layout.router is not None,
        )

    async def start(self) -> None:
        """Serve what is configured, and what was added in an earlier run that was killed."""
        for relay in (self._relay, self._access_relay):
            if relay is not None:
                relay.start()
        for rule in self._config.forwards:
            await self._add(rule)
        for text in await self._kernel.run(self._state.items, "forwards"):
            await self._restore(parse_forward(text))
        if self._config.host_access and self._layout.gateway:
            await self._kernel.run(
                self._forwards.open_host_access, self._layout.gateway, self._config.host_access
            )
        self.publish()

    def close(self) -> None:
        """Called in the kernel thread: end every flow and free every host port."""
        self._forwards.close()
        for relay in (self._relay, self._access_relay):
            if relay is not None:
                relay.stop()

    async def expose(self, rule: ForwardRule) -> ForwardInfo:
        """Add a forward. Raises HostPortInUse, ForwardExists; then nothing has changed."""
        info = await self._add(rule)
        try:
            await self._kernel.run(self._state.put, "forwards", str(rule), {})
        except BaseException:
            await self._kernel.run(self._forwards.remove, rule)
            raise
        self.publish()
        return info

    async def unexpose(self, rule: ForwardRule) -> None:
        """Raises ForwardNotFound."""
        self._forwards.get(rule)
        await self._kernel.run(self._state.delete, "forwards", str(rule))
        await self._kernel.run(self._forwards.remove, rule)
        self.publish()

    async def guests_changed(self) -> None:
        """Aim every forward at where its guest is now."""
        resolved = {item.rule: self._resolve(item.rule.guest) for item in self._forwards.forwards()}
        await self._kernel.run(self._forwards.guests_changed, resolved)
        self.publish()

    def publish(self) -> None:
        self._publish(self._forwards.hairpins("tcp"), self._forwards.hairpins("udp"))

    def infos(self) -> list[ForwardInfo]:
        return [forward_info(forward) for forward in self._forwards.forwards()]

    def awaited(self) -> set[str]:
        """Guests that forwards name, in lower case."""
        return {item.rule.guest.lower() for item in self._forwards.forwards() if item.rule.guest}

    def dnats(self) -> tuple[Dnat, ...]:
        return self._forwards.dnats()

    def redirects(self) -> tuple[HostAccessRedirect, ...]:
        return self._forwards.redirects()

    def stats(self) -> dict[str, int]:
        return self._relay.stats()

    async def _add(self, rule: ForwardRule) -> ForwardInfo:
        self._check(rule)
        return forward_info(await self._kernel.run(self._forwards.add, rule, self._resolve(rule.guest)))

    async def _restore(self, rule: ForwardRule) -> None:
        """A forward of an earlier run that was killed: kept, if its host port is still free and the network's mode
        and subnet allow it.
        """
        if rule in self._config.forwards:
            return
        try:
            await self._add(rule)
        except ArcboxNetError as error:
            log.warning("forward %s of the earlier run is given up: %s", rule, error)
            await self._kernel.run(self._state.delete, "forwards", str(rule))

    def _check(self, rule: ForwardRule) -> None:
        self._layout.check_has_forwards(rule)
        address = address_or_none(rule.guest)
        if address is not None and not self._layout.is_guest_address(address):
            subnet = self._layout.subnet if address.version == 4 else self._layout.subnet6
            raise ConfigError(
                f"{rule.guest} is not a guest's address in {subnet or 'this network, which has no IPv6'}",
                field="guest",
                value=rule.guest,
            )
