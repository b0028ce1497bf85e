"""Links, addresses and routes read from and written to the kernel of one network namespace."""

from __future__ import annotations

import socket
from typing import Final

from arcbox_net.errors import InterfaceNotFound
from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Netlink,
    attr,
    attr_text,
    attr_u32,
)
from arcbox_net.host.linux.rtnl import Address, Link, Route

_NO_STATS: Final = attr_u32(rtnl.IFLA_EXT_MASK, rtnl.RTEXT_FILTER_SKIP_STATS)


class RouteSocket(Netlink):
    """rtnetlink of the namespace *netns* (a path or an fd; None: the caller's)."""

    def __init__(self, netns: str | int | None = None) -> None:
        super().__init__(NETLINK_ROUTE, netns)

    def links(self, *, stats: bool = False) -> list[Link]:
        payload = rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + (b"" if stats else _NO_STATS)
        return [rtnl.link_of(message) for message in self.dump(rtnl.RTM_GETLINK, payload)]

    def link(self, ifname: str) -> Link | None:
        """The link of that name, or None."""
        if not ifname or len(ifname.encode()) > 15:
            return None
        name = attr_text(rtnl.IFLA_IFNAME, ifname)
        message = self.get(
            rtnl.RTM_GETLINK, rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + name + _NO_STATS
        )
        return None if message is None else rtnl.link_of(message)

    def need_link(self, ifname: str) -> Link:
        if (link := self.link(ifname)) is None:
            raise InterfaceNotFound(
                f"no interface {ifname}", fix="list interfaces with `ip link`", interface=ifname
            )
        return link

    def addresses(self, family: int = socket.AF_UNSPEC) -> list[Address]:
        dumped = self.dump(rtnl.RTM_GETADDR, rtnl.IFADDR.pack(family, 0, 0, 0, 0))
        return [found for message in dumped if (found := rtnl.address_of(message)) is not None]

    def routes(self, family: int) -> list[Route]:
        """All routes of all tables but the cached ones."""
        dumped = self.dump(rtnl.RTM_GETROUTE, rtnl.RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        found = (rtnl.route_of(message) for message in dumped)
        return [route for route in found if route is not None and not route.flags & rtnl.RTM_F_CLONED]

    def new_link(
        self, *members: bytes, operation: str, ifname: str, ifindex: int = 0, up: bool = False
    ) -> None:
        """Create a link (*ifindex* 0), or change one in ways that only RTM_NEWLINK takes."""
        flags = 0 if ifindex else NLM_F_CREATE | NLM_F_EXCL
        up_flag = rtnl.IFF_UP if up else 0
        head = rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, ifindex, up_flag, up_flag)
        self.request(rtnl.RTM_NEWLINK, flags, head + b"".join(members), operation=operation, subject=ifname)

    def set_link(
        self, ifindex: int, *members: bytes, operation: str, ifname: str, up: bool | None = None
    ) -> None:
        flags, change = (rtnl.IFF_UP if up else 0), (0 if up is None else rtnl.IFF_UP)
        head = rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, ifindex, flags, change)
        self.request(rtnl.RTM_SETLINK, 0, head + b"".join(members), operation=operation, subject=ifname)

    def delete_link(self, link: Link) -> None:
        head = rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, link.ifindex, 0, 0)
        self.request(rtnl.RTM_DELLINK, 0, head, operation="delete", subject=link.ifname)

    def set_noqueue(self, ifindex: int, *, ifname: str) -> None:
        """Give the link no queueing discipline, whatever the host's default one is."""
        head = rtnl.TCMSG.pack(socket.AF_UNSPEC, ifindex, 0, rtnl.TC_H_ROOT, 0)
        self.request(
            rtnl.RTM_NEWQDISC,
            NLM_F_CREATE | NLM_F_REPLACE,
            head + attr_text(rtnl.TCA_KIND, "noqueue"),
            operation="set queueing of",
            subject=ifname,
        )

    def add_ipv4(self, ifindex: int, address: bytes, prefix: int, *, ifname: str) -> None:
        """Add an IPv4 address; one that is there stays."""
        broadcast = int.from_bytes(address, "big") | ((1 << (32 - prefix)) - 1)
        payload = (
            rtnl.IFADDR.pack(socket.AF_INET, prefix, 0, rtnl.RT_SCOPE_UNIVERSE, ifindex)
            + attr(rtnl.IFA_LOCAL, address)
            + attr(rtnl.IFA_ADDRESS, address)
            + (attr(rtnl.IFA_BROADCAST, broadcast.to_bytes(4, "big")) if prefix < 31 else b"")
        )
        self.request(
            rtnl.RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            payload,
            operation="add an address to",
            subject=ifname,
        )

    def add_ipv6(self, ifindex: int, address: bytes, prefix: int, *, ifname: str) -> None:
        """Add an IPv6 address that nobody else can have, so that it is usable at once; one that is there stays."""
        payload = (
            rtnl.IFADDR.pack(socket.AF_INET6, prefix, rtnl.IFA_F_NODAD, rtnl.RT_SCOPE_UNIVERSE, ifindex)
            + attr(rtnl.IFA_LOCAL, address)
            + attr(rtnl.IFA_ADDRESS, address)
        )
        self.request(
            rtnl.RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_REPLACE,
            payload,
            operation="add an IPv6 address to",
            subject=ifname,
        )

    def delete_address(self, address: Address, *, ifname: str) -> None:
        self.request(
            rtnl.RTM_DELADDR,
            0,
            address.raw,
            operation=f"remove address {address.interface} from",
            subject=ifname,
        )

    def add_default_route(self, ifindex: int, gateway: bytes, *, ifname: str) -> None:
        payload = (
            rtnl.RTMSG.pack(
                socket.AF_INET,
                0,
                0,
                0,
                rtnl.RT_TABLE_MAIN,
                rtnl.RTPROT_BOOT,
                rtnl.RT_SCOPE_UNIVERSE,
                rtnl.RTN_UNICAST,
                0,
            )
            + attr(rtnl.RTA_GATEWAY, gateway)
            + attr_u32(rtnl.RTA_OIF, ifindex)
        )
        self.request(
            rtnl.RTM_NEWROUTE,
            NLM_F_CREATE | NLM_F_REPLACE,
            payload,
            operation="add a default route by",
            subject=ifname,
        )
