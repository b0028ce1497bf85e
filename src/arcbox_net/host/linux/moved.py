"""Saved addresses and routes, rewritten for another interface and for what the kernel takes back.

A saved one is `{"text": as ip prints it, "raw": the kernel's message in base64}`; nic.py decides what goes
where.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import time
from typing import Any

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import attr, attr_u32, iter_attrs
from arcbox_net.host.linux.rtnl import Address, Link, Route

Saved = dict[str, Any]


def address_moves(address: Address) -> bool:
    if address.interface.version == 4:
        return True
    return address.scope != rtnl.RT_SCOPE_LINK and not address.flags & rtnl.IFA_F_TEMPORARY


def route_moves(route: Route) -> bool:
    if route.table == rtnl.RT_TABLE_LOCAL or route.network.is_link_local:
        return False
    return not (route.network.version == 6 and route.network.is_multicast)


def in_listed_order(addresses: list[dict[str, str]]) -> list[dict[str, str]]:
    """So that a listing shows them as before: the kernel appends IPv4 addresses, and puts IPv6 ones first."""
    family = [(_decode(one["raw"])[0], one) for one in addresses]
    ipv4 = [one for number, one in family if number == socket.AF_INET]
    ipv6 = [one for number, one in family if number == socket.AF_INET6]
    return ipv4 + ipv6[::-1]


def address_on(one: dict[str, str], saved: Saved, link: Link) -> bytes:
    """The saved address for *link*; b'' when its lifetime has ended since."""
    raw = _decode(one["raw"])
    family, prefix, flags, scope, _ = rtnl.IFADDR.unpack_from(raw)
    dropped = rtnl.IFA_F_TENTATIVE | rtnl.IFA_F_DADFAILED | rtnl.IFA_F_PERMANENT
    if family == socket.AF_INET:
        dropped |= rtnl.IFA_F_SECONDARY  # the kernel decides which address of a subnet is secondary
    elapsed_s = int(time.clock_gettime(time.CLOCK_BOOTTIME) - saved["saved_at_s"])
    members = []
    for kind, value in iter_attrs(raw, rtnl.IFADDR.size):
        if kind == rtnl.IFA_LABEL and link.ifindex != saved["ifindex"]:
            continue  # a label begins with its own interface's name
        if kind == rtnl.IFA_FLAGS:
            value = struct.pack("=I", struct.unpack("=I", value)[0] & ~dropped)
        elif kind == rtnl.IFA_CACHEINFO:
            preferred, valid, created, updated = rtnl.CACHEINFO.unpack(value)
            preferred, valid = _less(preferred, elapsed_s), _less(valid, elapsed_s)
            if not valid:
                return b""
            value = rtnl.CACHEINFO.pack(preferred, valid, created, updated)
        members.append(attr(kind, value))
    return rtnl.IFADDR.pack(family, prefix, flags & ~dropped, scope, link.ifindex) + b"".join(members)


def _less(lifetime_s: int, elapsed_s: int) -> int:
    return lifetime_s if lifetime_s == rtnl.LIFETIME_FOREVER else max(0, lifetime_s - elapsed_s)


def route_by(one: dict[str, str], saved: Saved, link: Link) -> bytes:
    """The saved route, leaving by *link* wherever it left by the NIC."""
    raw = _decode(one["raw"])
    head = list(rtnl.RTMSG.unpack_from(raw))
    head[8] &= rtnl.RTNH_F_ONLINK  # the others are states that the kernel reports and does not take
    members = []
    for kind, value in iter_attrs(raw, rtnl.RTMSG.size):
        if kind == rtnl.RTA_OIF:
            value = _swap(value, 0, saved["ifindex"], link.ifindex)
        elif kind == rtnl.RTA_MULTIPATH:
            for _, offset in rtnl.hops(value):
                value = _swap(value, offset + 4, saved["ifindex"], link.ifindex)
                value = (
                    value[: offset + 2]
                    + bytes([value[offset + 2] & rtnl.RTNH_F_ONLINK])
                    + value[offset + 3 :]
                )
        elif kind == rtnl.RTA_CACHEINFO:
            members += _expiry(value)
            continue
        members.append(attr(kind, value))
    return rtnl.RTMSG.pack(*head) + b"".join(members)


def _swap(value: bytes, offset: int, old: int, new: int) -> bytes:
    if struct.unpack_from("=I", value, offset)[0] != old:
        return value
    return value[:offset] + struct.pack("=I", new) + value[offset + 4 :]


def _expiry(cacheinfo: bytes) -> list[bytes]:
    """When a route of a router advertisement ends: the kernel tells it in ticks, and takes it in seconds."""
    expires = struct.unpack_from("=IIi", cacheinfo)[2] if len(cacheinfo) >= 12 else 0
    return [attr_u32(rtnl.RTA_EXPIRES, expires // os.sysconf("SC_CLK_TCK"))] if expires > 0 else []


def encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(raw: str) -> bytes:
    return base64.b64decode(raw)
