"""What rtnetlink's payloads mean: links, addresses and routes as values, and the numbers of linux/if_link.h
and friends.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final, NamedTuple

from arcbox_net.host.linux.netlink import Message, attrs, iter_attrs, mapping_get_u32, text

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNEIGH: Final = 28
RTM_DELNEIGH: Final = 29
RTM_NEWQDISC: Final = 36

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_LINK: Final = 5
IFLA_MASTER: Final = 10
IFLA_TXQLEN: Final = 13
IFLA_LINKINFO: Final = 18
IFLA_IFALIAS: Final = 20
IFLA_STATS64: Final = 23
IFLA_AF_SPEC: Final = 26
IFLA_GROUP: Final = 27
IFLA_NET_NS_FD: Final = 28
IFLA_EXT_MASK: Final = 29
IFLA_CARRIER: Final = 33
IFLA_GSO_IPV4_MAX_SIZE: Final = 63
RTEXT_FILTER_SKIP_STATS: Final = 8

IFLA_INFO_KIND: Final = 1
IFLA_INFO_DATA: Final = 2
IFLA_INFO_SLAVE_KIND: Final = 4
IFLA_INFO_SLAVE_DATA: Final = 5
VETH_INFO_PEER: Final = 1
IFLA_BR_FORWARD_DELAY: Final = 1
IFLA_BR_STP_STATE: Final = 5
IFLA_BR_MCAST_SNOOPING: Final = 23
IFLA_BRPORT_LEARNING: Final = 8
IFLA_BRPORT_UNICAST_FLOOD: Final = 9
IFLA_BRPORT_MCAST_FLOOD: Final = 27
IFLA_BRPORT_BCAST_FLOOD: Final = 30
IFLA_BRPORT_ISOLATED: Final = 33
IFLA_TUN_VNET_HDR: Final = 5
IFLA_TUN_MULTI_QUEUE: Final = 7

IFLA_INET6_ADDR_GEN_MODE: Final = 8
IN6_ADDR_GEN_MODE_NONE: Final = 1

IFF_UP: Final = 0x1
IFF_LOOPBACK: Final = 0x8
IFF_LOWER_UP: Final = 0x10000
ARPHRD_ETHER: Final = 1

IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_LABEL: Final = 3
IFA_BROADCAST: Final = 4
IFA_CACHEINFO: Final = 6
IFA_FLAGS: Final = 8
IFA_F_SECONDARY: Final = 0x01
IFA_F_TEMPORARY: Final = 0x01  # the same bit means this for IPv6
IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_TENTATIVE: Final = 0x40
IFA_F_PERMANENT: Final = 0x80
LIFETIME_FOREVER: Final = 0xFFFFFFFF

RTA_DST: Final = 1
RTA_OIF: Final = 4
RTA_GATEWAY: Final = 5
RTA_PRIORITY: Final = 6
RTA_PREFSRC: Final = 7
RTA_METRICS: Final = 8
RTA_MULTIPATH: Final = 9
RTA_CACHEINFO: Final = 12
RTA_TABLE: Final = 15
RTA_VIA: Final = 18
RTA_EXPIRES: Final = 23
RTA_NH_ID: Final = 30
RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255
RTN_UNICAST: Final = 1
RTN_TYPES: Final = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RT_SCOPES: Final = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
RTPROT_KERNEL: Final = 2
RTPROT_BOOT: Final = 3
RTPROTS: Final = {
    1: "redirect",
    2: "kernel",
    3: "boot",
    4: "static",
    9: "ra",
    12: "bird",
    16: "dhcp",
    186: "bgp",
}
RTM_F_CLONED: Final = 0x200
RTNH_F_ONLINK: Final = 4

NUD_PERMANENT: Final = 0x80
NUD_NOARP: Final = 0x40
NTF_MASTER: Final = 0x04
NDA_LLADDR: Final = 2
TCA_KIND: Final = 1
TC_H_ROOT: Final = 0xFFFFFFFF

IFINFO: Final = struct.Struct("=BxHiII")
IFADDR: Final = struct.Struct("=BBBBI")
RTMSG: Final = struct.Struct("=BBBBBBBBI")
NDMSG: Final = struct.Struct("=BxxxiHBB")
TCMSG: Final = struct.Struct("=BxxxiIII")
CACHEINFO: Final = struct.Struct("=IIII")


class LinkStats(NamedTuple):
    """Counters of a link, seen from the host: a port's rx is what its guest sent."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0


class Link(NamedTuple):
    """An interface as the kernel reports it. `kind`: bridge, veth, tun, … or '' for a NIC; `master` 0:
    none.
    """

    ifindex: int
    ifname: str
    flags: int
    arp_type: int = ARPHRD_ETHER
    mac: str = ""
    mtu: int = 0
    master: int = 0
    kind: str = ""
    alias: str = ""
    group: int = 0
    txqueuelen: int = 0
    carrier: bool = False
    info: bytes = b""
    stats: LinkStats = LinkStats()

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)


class Address(NamedTuple):
    """An address of a link, with the payload it came in."""

    ifindex: int
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface
    scope: int
    flags: int
    raw: bytes = b""


class Route(NamedTuple):
    """A route, with the payload it came in. `ifindexes`: all links that it leaves by."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    table: int
    kind: int
    protocol: int
    scope: int
    metric: int
    gateway: str
    source: str
    ifindexes: tuple[int, ...]
    flags: int = 0
    nexthop_id: int = 0
    raw: bytes = b""


def link_of(message: Message) -> Link:
    """The link that an RTM_NEWLINK or RTM_DELLINK describes."""
    _, arp_type, ifindex, flags, _ = IFINFO.unpack_from(message.payload)
    found = attrs(message.payload, IFINFO.size)
    info = attrs(found.get(IFLA_LINKINFO, b""))
    return Link(
        ifindex=ifindex,
        ifname=text(found.get(IFLA_IFNAME)),
        flags=flags,
        arp_type=arp_type,
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        mtu=mapping_get_u32(found, IFLA_MTU),
        master=mapping_get_u32(found, IFLA_MASTER),
        kind=text(info.get(IFLA_INFO_KIND)),
        alias=text(found.get(IFLA_IFALIAS)),
        group=mapping_get_u32(found, IFLA_GROUP),
        txqueuelen=mapping_get_u32(found, IFLA_TXQLEN),
        carrier=found.get(IFLA_CARRIER, b"\0") != b"\0",
        info=info.get(IFLA_INFO_DATA, b""),
        stats=_stats(found.get(IFLA_STATS64, b"")),
    )


def address_of(message: Message) -> Address | None:
    """The address that an RTM_NEWADDR or RTM_DELADDR describes; None for a family we do not know."""
    family, prefix, flags, scope, ifindex = IFADDR.unpack_from(message.payload)
    found = attrs(message.payload, IFADDR.size)
    # IPv4: IFA_LOCAL is ours, IFA_ADDRESS the peer's on a point-to-point link. IPv6 often has IFA_ADDRESS
    # alone.
    value = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    if family not in (socket.AF_INET, socket.AF_INET6) or len(value) not in (4, 16):
        return None
    return Address(
        ifindex=ifindex,
        interface=ipaddress.ip_interface((ip_text(value), prefix)),
        scope=scope,
        flags=mapping_get_u32(found, IFA_FLAGS, flags),
        raw=message.payload,
    )


def route_of(message: Message) -> Route | None:
    """The route that an RTM_NEWROUTE or RTM_DELROUTE describes; None for a family we do not know."""
    family, prefix, _, _, table, protocol, scope, kind, flags = RTMSG.unpack_from(message.payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    found = attrs(message.payload, RTMSG.size)
    target = found.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    links = [mapping_get_u32(found, RTA_OIF)] if RTA_OIF in found else []
    links += [ifindex for ifindex, _ in hops(found.get(RTA_MULTIPATH, b""))]
    gateway = found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]
    return Route(
        network=ipaddress.ip_network((ip_text(target), prefix)),
        table=mapping_get_u32(found, RTA_TABLE, table),
        kind=kind,
        protocol=protocol,
        scope=scope,
        metric=mapping_get_u32(found, RTA_PRIORITY),
        gateway=ip_text(gateway) if gateway else "",
        source=ip_text(found[RTA_PREFSRC]) if RTA_PREFSRC in found else "",
        ifindexes=tuple(links),
        flags=flags,
        nexthop_id=mapping_get_u32(found, RTA_NH_ID),
        raw=message.payload,
    )


def hops(multipath: bytes) -> list[tuple[int, int]]:
    """`(ifindex, offset of the hop)` for each hop of an RTA_MULTIPATH."""
    found = []
    offset = 0
    while len(multipath) - offset >= 8:
        size, _, _, ifindex = struct.unpack_from("=HBBi", multipath, offset)
        if size < 8 or size > len(multipath) - offset:
            break
        found.append((ifindex, offset))
        offset += (size + 3) & ~3
    return found


def route_text(route: Route, ifnames: dict[int, str]) -> str:
    """*route* as `ip route` prints it, as far as an administrator needs it to find the route."""
    words = [] if route.kind == RTN_UNICAST else [RTN_TYPES.get(route.kind, f"type {route.kind}")]
    words.append("default" if route.network.prefixlen == 0 else str(route.network))
    if route.gateway:
        words += ["via", route.gateway]
    for ifindex in route.ifindexes:
        words += ["dev", ifnames.get(ifindex, f"#{ifindex}")]
    if route.table != RT_TABLE_MAIN:
        words += ["table", str(route.table)]
    words += ["proto", RTPROTS.get(route.protocol, str(route.protocol))]
    if route.scope != RT_SCOPE_UNIVERSE:
        words += ["scope", RT_SCOPES.get(route.scope, str(route.scope))]
    if route.source:
        words += ["src", route.source]
    if route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)


def ip_text(value: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def tun_flag(link: Link, kind: int) -> bool:
    """A yes-or-no attribute of a TAP, such as IFLA_TUN_MULTI_QUEUE."""
    return dict(iter_attrs(link.info)).get(kind, b"\0") != b"\0"


def _stats(value: bytes) -> LinkStats:
    return LinkStats(*struct.unpack_from("=8Q", value)) if len(value) >= 64 else LinkStats()
