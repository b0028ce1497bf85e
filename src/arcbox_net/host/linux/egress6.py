"""Does this host reach the IPv6 internet? The kernel is asked for the route, and again after each change of routes.

A default route counts, and so do the halves or the 2000::/3 that a VPN sets in its place; a route that rejects, or
one whose packets would leave with a link-local address, does not.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Final

from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import Message, attr
from arcbox_net.host.linux.notices import (
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    Notices,
)
from arcbox_net.host.linux.rtsocket import RouteSocket

GROUPS: Final = (RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE)
OUTSIDE: Final = IPv6Address("2000::")  # global unicast begins there; nothing is sent to it
LOOPBACK: Final = 1  # the ifindex of `lo` in every namespace
DEBOUNCE_S: Final = 0.05

log = logging.getLogger("arcbox_net.egress6")


def reaches_ipv6(rt: RouteSocket) -> bool:
    """Whether a packet of this host to the IPv6 internet has a route, and a source address others can answer."""
    payload = rtnl.RTMSG.pack(socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0) + attr(rtnl.RTA_DST, OUTSIDE.packed)
    try:
        message = rt.get(rtnl.RTM_GETROUTE, payload)
    except ArcboxNetError:  # ENETUNREACH, EACCES, …: that is the answer
        return False
    route = rtnl.route_of(message) if message is not None else None
    if route is None or route.kind != rtnl.RTN_UNICAST or LOOPBACK in route.ifindexes or not route.source:
        return False
    source = IPv6Address(route.source)
    return not (source.is_link_local or source.is_loopback)


class Ipv6Egress:
    """Follows one namespace, that of the thread which calls `start`. *changed* is called in the loop."""

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self.available = False
        self._changed = changed
        self._notices: Notices | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Subscribe, then look, so that nothing between the two is missed. `available` is known from here on."""
        self._notices = Notices(GROUPS, self._notice, self._look_soon)
        self.available = reaches_ipv6(self._notices.rt)
        self._notices.listen()

    def stop(self) -> None:
        """Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def _notice(self, _: Message) -> None:
        self._look_soon()

    def _look_soon(self) -> None:
        """What changed does not matter, nor do lost notices: the kernel is asked afterwards."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DEBOUNCE_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._notices is None:
            return
        available = reaches_ipv6(self._notices.rt)
        if available != self.available:
            self.available = available
            log.info("this host %s the IPv6 internet", "reaches" if available else "no longer reaches")
            self._changed(available)
