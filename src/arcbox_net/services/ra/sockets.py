"""The raw ICMPv6 socket of a router: solicitations in, advertisements out, on one interface."""

from __future__ import annotations

import errno
import socket
import struct

from arcbox_net.errors import ServiceError
from arcbox_net.services.ra.messages import HOP_LIMIT, ROUTER_SOLICIT

ALL_ROUTERS = "ff02::2"
_ICMP6_FILTER = 1  # <linux/icmpv6.h>: a bit for each type that is not wanted


def open_icmpv6(ifname: str, address: str) -> socket.socket:
    """A non-blocking socket that reads router solicitations on *ifname* and sends from the link-local *address*.

    Raises ServiceError.
    """
    try:
        sock = socket.socket(
            socket.AF_INET6,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.IPPROTO_ICMPV6,
        )
    except OSError as error:
        raise _failed(ifname, error) from None
    try:
        unwanted = bytearray(b"\xff" * 32)
        struct.pack_into("=I", unwanted, ROUTER_SOLICIT // 32 * 4, 0xFFFFFFFF & ~(1 << ROUTER_SOLICIT % 32))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(unwanted))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode() + b"\0")
        ifindex = socket.if_nametoindex(ifname)
        for option, value in (
            (socket.IPV6_UNICAST_HOPS, HOP_LIMIT),
            (socket.IPV6_MULTICAST_HOPS, HOP_LIMIT),
            (socket.IPV6_MULTICAST_IF, ifindex),
            (socket.IPV6_MULTICAST_LOOP, 0),
            (socket.IPV6_RECVHOPLIMIT, 1),
        ):
            sock.setsockopt(socket.IPPROTO_IPV6, option, value)
        group = socket.inet_pton(socket.AF_INET6, ALL_ROUTERS) + struct.pack("=I", ifindex)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        sock.bind((address, 0, 0, ifindex))
    except OSError as error:
        sock.close()
        raise _failed(ifname, error) from None
    return sock


def hop_limit_of(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The hop limit that a packet arrived with, 0 when the kernel did not say."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT and len(value) >= 4:
            return int(struct.unpack_from("=i", value)[0])
    return 0


def _failed(ifname: str, error: OSError) -> ServiceError:
    fixes = {
        errno.EPERM: "run as root or with CAP_NET_RAW",
        errno.EACCES: "run as root or with CAP_NET_RAW",
        errno.ENODEV: "the interface must exist before its router advertisements start",
        errno.EADDRNOTAVAIL: "the interface must have its link-local address before",
    }
    return ServiceError(
        f"router advertisements on {ifname}: {error.strerror}",
        fix=fixes.get(error.errno or 0),
        service="ra",
        interface=ifname,
        errno=error.errno,
    )
