"""What happens to links, addresses and routes of a namespace, as events on the asyncio loop.

*Theory of operation.* A socket subscribed to rtnetlink's groups feeds a picture of all links. Events are
differences between pictures, so a message that says nothing new is no event. When messages were lost
(ENOBUFS), the kernel is listed again, the differences become events as usual, and a `resync` event says
that addresses and routes may have changed unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import Message
from arcbox_net.host.linux.notices import (
    BUFFER_BYTES,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
    Notices,
)
from arcbox_net.host.linux.rtnl import Link

GROUPS: Final = (
    RTNLGRP_LINK,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
)


class Event(NamedTuple):
    """Something that changed.

    `kind`: link-added, link-removed, link-renamed (`old`: its name before), link-up, link-down, carrier-up,
    carrier-down, mtu-changed, mac-changed, master-changed, address-added, address-removed, route-added,
    route-removed (`detail`: which), or resync. `ifindex` 0 where no one link is concerned.
    """

    kind: str
    ifname: str = ""
    ifindex: int = 0
    old: str = ""
    detail: str = ""


class LinkMonitor:
    """Watches one namespace (a path or an fd; None: the caller's) from the running loop until `stop`.

    *on_change* is called in the loop and must not block. An exception of it goes to the loop's handler and
    ends nothing.
    """

    def __init__(
        self,
        on_change: Callable[[Event], None],
        *,
        netns: str | int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._on_change = on_change
        self._netns = netns
        self._buffer_bytes = buffer_bytes
        self._links: dict[int, Link] = {}
        self._notices: Notices | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.overruns = 0

    async def start(self) -> None:
        """Subscribe, then take the first picture, so that nothing between the two is missed."""
        self._loop = asyncio.get_running_loop()
        self._notices = Notices(
            GROUPS, self._take, self._resync, netns=self._netns, buffer_bytes=self._buffer_bytes
        )
        try:
            self._links = {link.ifindex: link for link in self._notices.rt.links()}
        except BaseException:
            await self.stop()
            raise
        self._notices.listen()

    async def stop(self) -> None:
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    @property
    def links(self) -> dict[str, Link]:
        """The picture as it is now, by name."""
        return {link.ifname: link for link in self._links.values()}

    def _take(self, message: Message) -> None:
        if message.kind == rtnl.RTM_NEWLINK:
            # The bridge repeats its ports' links with a payload of its own family: those say nothing of the
            # link.
            if message.payload[:1] == b"\0":
                self._update(rtnl.link_of(message))
        elif message.kind == rtnl.RTM_DELLINK:
            if message.payload[:1] == b"\0":
                self._forget(rtnl.link_of(message).ifindex)
        elif message.kind in (rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR):
            if address := rtnl.address_of(message):
                verb = "added" if message.kind == rtnl.RTM_NEWADDR else "removed"
                self._emit(f"address-{verb}", address.ifindex, detail=str(address.interface))
        elif message.kind in (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE):
            route = rtnl.route_of(message)
            if route and not route.flags & rtnl.RTM_F_CLONED and route.table != rtnl.RT_TABLE_LOCAL:
                verb = "added" if message.kind == rtnl.RTM_NEWROUTE else "removed"
                ifindex = route.ifindexes[0] if route.ifindexes else 0
                self._emit(f"route-{verb}", ifindex, detail=rtnl.route_text(route, self._ifnames()))

    def _resync(self) -> None:
        """Messages were lost: compare with a listing."""
        self.overruns += 1
        assert self._notices is not None
        present = {link.ifindex: link for link in self._notices.rt.links()}
        for ifindex in [known for known in self._links if known not in present]:
            self._forget(ifindex)
        for link in present.values():
            self._update(link)
        self._emit("resync", 0)

    def _update(self, link: Link) -> None:
        old = self._links.get(link.ifindex)
        self._links[link.ifindex] = link
        if old is None:
            self._emit("link-added", link.ifindex)
            return
        if old.ifname != link.ifname:
            self._emit("link-renamed", link.ifindex, old=old.ifname)
        if old.up != link.up:
            self._emit("link-up" if link.up else "link-down", link.ifindex)
        if old.carrier != link.carrier:
            self._emit("carrier-up" if link.carrier else "carrier-down", link.ifindex)
        if old.mtu != link.mtu:
            self._emit("mtu-changed", link.ifindex, old=str(old.mtu), detail=str(link.mtu))
        if old.mac != link.mac:
            self._emit("mac-changed", link.ifindex, old=old.mac, detail=link.mac)
        if old.master != link.master:
            names = self._ifnames()
            self._emit(
                "master-changed",
                link.ifindex,
                old=names.get(old.master, ""),
                detail=names.get(link.master, ""),
            )

    def _forget(self, ifindex: int) -> None:
        gone = self._links.pop(ifindex, None)
        if gone is not None:
            self._emit("link-removed", ifindex, ifname=gone.ifname)

    def _emit(self, kind: str, ifindex: int, *, ifname: str = "", old: str = "", detail: str = "") -> None:
        known = self._links.get(ifindex)
        event = Event(kind, ifname or (known.ifname if known else ""), ifindex, old, detail)
        try:
            self._on_change(event)
        except Exception as error:
            assert self._loop is not None
            self._loop.call_exception_handler(
                {"message": f"link monitor callback: {event}", "exception": error}
            )

    def _ifnames(self) -> dict[int, str]:
        return {ifindex: link.ifname for ifindex, link in self._links.items()}
