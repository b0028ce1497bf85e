"""Notices when somebody else changes what is ours, and asks for the repair: at once, but not forever.

Repairs are debounced, and after REPAIRS_MAX within a minute the fight is given up for that minute and logged:
two programs that undo each other must not take the machine down.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from arcbox_net.host.linux.firewall_monitor import FirewallMonitor
from arcbox_net.host.linux.monitor import Event, LinkMonitor
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import is_door, leg_ifname, port_prefix, uplink_ifname
from arcbox_net.network.kernel_thread import KernelThread
from arcbox_net.recipes.site import Layout

DEBOUNCE_S = 0.05
REPAIRS_MAX = 5
REPAIR_WINDOW_S = 60.0
AGAIN_S = 5.0  # after work that failed
_REPAIR = "repair"
_PORTS = "ports"
_SURROUNDINGS = "surroundings"
_BRIDGE_BROKEN = ("link-removed", "link-renamed", "link-down", "mtu-changed", "address-removed")
_OF_SURROUNDINGS = (
    "address-added",
    "address-removed",
    "route-added",
    "route-removed",
    "mtu-changed",
    "resync",
)

log = logging.getLogger("arcbox_net.watch")
T = TypeVar("T")


class Watch:
    """Ties the kernel's notifications to what they ask for.

    `repair`: our state was changed. `links_changed`: a guest's device went, changed its MAC, or left the bridge (by
    detach, or by somebody's hand: then it answers True, and repair follows). `surroundings_changed`: addresses or
    routes of the host came or went, so that the network's subnet may overlap them, or no longer; or a link's
    MTU is another. `bridge_came_up`: it has a carrier, which it has while a guest's device has one.
    """

    def __init__(
        self,
        firewall: Firewall,
        layout: Layout,
        repair: Callable[[], Awaitable[None]],
        links_changed: Callable[[], Awaitable[bool]],
        surroundings_changed: Callable[[], Awaitable[None]],
        *,
        bridge_came_up: Callable[[], None],
        kernel: KernelThread,
    ) -> None:
        self._layout = layout
        self._port_prefix = port_prefix(firewall.network)
        self._own_ports = (uplink_ifname(firewall.network), leg_ifname(firewall.network))
        self._repair = repair
        self._links_changed = links_changed
        self._surroundings_changed = surroundings_changed
        self._bridge_came_up = bridge_came_up
        self._firewall = FirewallMonitor(firewall, self._request_repair, run=kernel.run)
        self._links = LinkMonitor(self._on_link, netns=kernel.netns_fd)
        # What is around a private network happens in another namespace than what is in it.
        is_private = kernel.netns_fd is not None
        self._surroundings = LinkMonitor(self._on_surroundings) if is_private else None
        self._repairs: deque[float] = deque(maxlen=REPAIRS_MAX)
        self._counts = {"repairs": 0, "repairs_refused": 0}
        self._wanted: set[str] = set()
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._firewall.start()
        await self._links.start()
        if self._surroundings is not None:
            await self._surroundings.start()

    async def stop(self) -> None:
        await self._firewall.stop()
        await self._links.stop()
        if self._surroundings is not None:
            await self._surroundings.stop()
        for timer in self._later.values():
            timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def stats(self) -> dict[str, int]:
        return dict(self._counts)

    def _on_link(self, event: Event) -> None:
        """Ours are the bridge and this network's ports; all else on the host is looked at for what it does to us."""
        names = (event.ifname, event.old if event.kind == "link-renamed" else event.ifname)
        if event.kind == "link-removed" and is_door(event.ifname):
            self._request_repair()
        elif self._layout.bridge in names:
            if event.kind == "carrier-up":
                self._bridge_came_up()
            elif event.kind in _BRIDGE_BROKEN and self._layout.owns_bridge:
                self._request_repair()
            elif event.kind in (
                "link-added",
                "link-renamed",
            ):  # somebody's bridge is back, without our guests
                self._request(_PORTS)
        elif event.kind == "link-down" and event.ifname in self._own_ports:
            self._request_repair()  # a guest's own may be kept down
        elif any(name.startswith(self._port_prefix) for name in names):
            if event.kind in ("link-removed", "link-renamed", "mac-changed") or (
                event.kind == "master-changed" and event.detail != self._layout.bridge
            ):
                self._request(_PORTS)
        elif self._surroundings is None:
            self._on_surroundings(event)
        if event.kind == "resync":
            self._request_repair()
            self._request(_PORTS)

    def _on_surroundings(self, event: Event) -> None:
        if event.kind in _OF_SURROUNDINGS:
            self._request(_SURROUNDINGS)

    def _request_repair(self) -> None:
        self._request(_REPAIR)

    def _request_later(self, what: str, delay_s: float) -> None:
        if what in self._later:
            self._later[what].cancel()
        self._later[what] = asyncio.get_running_loop().call_later(delay_s, self._request, what)

    def _request(self, what: str) -> None:
        self._wanted.add(what)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work())

    async def _work(self) -> None:
        while self._wanted:
            await asyncio.sleep(DEBOUNCE_S)
            wanted, self._wanted = self._wanted, set()
            if _PORTS in wanted and await self._attempt(_PORTS, self._links_changed):
                wanted.add(_REPAIR)
            if _REPAIR in wanted and self._may_repair():
                await self._attempt(_REPAIR, self._repair)
            if _SURROUNDINGS in wanted:
                await self._attempt(_SURROUNDINGS, self._surroundings_changed)

    async def _attempt(self, what: str, work: Callable[[], Awaitable[T]]) -> T | None:
        """One that fails takes no other with it, and is tried again: nobody may notice what it left undone."""
        try:
            return await work()
        except Exception:
            log.exception("%s: failed, again in %d s", what, AGAIN_S)
            self._request_later(what, AGAIN_S)
            return None

    def _may_repair(self) -> bool:
        now = time.monotonic()
        if len(self._repairs) == REPAIRS_MAX and now - self._repairs[0] < REPAIR_WINDOW_S:
            self._counts["repairs_refused"] += 1
            self._request_later(_REPAIR, REPAIR_WINDOW_S - (now - self._repairs[0]))
            log.error(
                "somebody keeps undoing this network's kernel state; next repair within %d s", REPAIR_WINDOW_S
            )
            return False
        self._repairs.append(now)
        self._counts["repairs"] += 1
        log.warning("this network's kernel state was changed by somebody else; putting it right")
        return True
