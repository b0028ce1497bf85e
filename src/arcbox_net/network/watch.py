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

from arcbox_net.host.linux.firewall_monitor import FirewallMonitor
from arcbox_net.host.linux.monitor import LinkMonitor
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.recipes.site import Layout

DEBOUNCE_S = 0.05
REPAIRS_MAX = 5
REPAIR_WINDOW_S = 60.0

log = logging.getLogger("arcbox_net.watch")


class Watch:
    """Ties the kernel's notifications to `repair` (our state was changed) and `links_changed` (a device went)."""

    def __init__(
        self,
        firewall: Firewall,
        layout: Layout,
        repair: Callable[[], Awaitable[None]],
        links_changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._layout = layout
        self._repair = repair
        self._links_changed = links_changed
        self._firewall = FirewallMonitor(firewall, self._request_repair)
        self._links = LinkMonitor(self._on_link)
        self._repairs: deque[float] = deque(maxlen=REPAIRS_MAX)
        self._counts = {"repairs": 0, "repairs_refused": 0, "link_events": 0}
        self._wanted: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._firewall.start()
        await self._links.start()

    async def stop(self) -> None:
        await self._firewall.stop()
        await self._links.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def stats(self) -> dict[str, int]:
        return dict(self._counts)
