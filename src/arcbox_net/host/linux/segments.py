"""Which TCP segments the host asks guests for, on a bridge whose frames may be larger.

A guest's card without offloads (behind a socket) has every segment copied and summed in one piece of memory. With
SEGMENT_BYTES_MAX that is 64 KiB with all headers; a little more, and guests take, and clear, 128 KiB for each.
"""

from __future__ import annotations

import socket
from typing import Final

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.netlink import NLM_F_REPLACE, attr, attr_u32, attrs, iter_attrs, nested
from arcbox_net.host.linux.rtnl import Link, Route

SEGMENT_BYTES_MAX: Final = 61_440  # 15 pages
HEADER_BYTES: Final = 40  # of IPv4 and TCP, without options

_RTAX_ADVMSS: Final = 8
_KEPT: Final = {rtnl.RTA_DST, rtnl.RTA_OIF, rtnl.RTA_PRIORITY, rtnl.RTA_PREFSRC, rtnl.RTA_TABLE}


def limit_segments(kernel: Kernel, bridge: Link, mtu: int) -> None:
    """Have the routes to the guests behind *bridge*, which is up, say so as far as its *mtu* makes it necessary."""
    wanted = b""
    if mtu > SEGMENT_BYTES_MAX + HEADER_BYTES:
        wanted = nested(rtnl.RTA_METRICS, attr_u32(_RTAX_ADVMSS, SEGMENT_BYTES_MAX))
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in kernel.rt.routes(family):
            if _is_to_guests(route, bridge):
                present = attrs(route.raw, rtnl.RTMSG.size).get(rtnl.RTA_METRICS, b"")
                if bool(present) != bool(wanted):
                    _replace(kernel, bridge, route, wanted)


def _is_to_guests(route: Route, bridge: Link) -> bool:
    """Is it one of those that the kernel makes of the bridge's addresses?"""
    return (
        route.protocol == rtnl.RTPROT_KERNEL
        and route.table == rtnl.RT_TABLE_MAIN
        and route.ifindexes == (bridge.ifindex,)
    )


def _replace(kernel: Kernel, bridge: Link, route: Route, metrics: bytes) -> None:
    head = rtnl.RTMSG.unpack_from(route.raw)
    members = iter_attrs(route.raw, rtnl.RTMSG.size)
    kept = b"".join(attr(kind, value) for kind, value in members if kind in _KEPT)
    kernel.rt.request(
        rtnl.RTM_NEWROUTE,
        NLM_F_REPLACE,
        rtnl.RTMSG.pack(*head[:-1], 0) + kept + metrics,  # flags are states that the kernel does not take
        operation="limit the segments of",
        subject=bridge.ifname,
    )
