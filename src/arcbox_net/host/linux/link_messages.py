"""What is sent to the kernel for a bridge, a bridge port and a veth pair."""

from __future__ import annotations

import socket

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import attr, attr_text, attr_u8, attr_u32, nested
from arcbox_net.host.linux.ownership import LINK_GROUP
from arcbox_net.host.plan import LARGE_FRAME_BYTES, TXQUEUELEN, LegPlan, PortPlan, VethPlan


def bridge_settings() -> bytes:
    return bridge_info(
        attr_u32(rtnl.IFLA_BR_STP_STATE, 0),
        attr_u32(rtnl.IFLA_BR_FORWARD_DELAY, 0),  # a port forwards as soon as it is up
        # Without a querier on the segment, snooping soon cuts guests off from multicast (mDNS, IPv6 ND).
        attr_u8(rtnl.IFLA_BR_MCAST_SNOOPING, 0),
    )


def bridge_info(*settings: bytes) -> bytes:
    kind = attr(rtnl.IFLA_INFO_KIND, b"bridge")
    return nested(rtnl.IFLA_LINKINFO, kind, nested(rtnl.IFLA_INFO_DATA, *settings))


def port_sizes(plan: PortPlan) -> bytes:
    sizes = attr_u32(rtnl.IFLA_MTU, plan.mtu) + attr_u32(rtnl.IFLA_TXQLEN, TXQUEUELEN)
    return sizes + large_frames() if isinstance(plan, VethPlan) and plan.large_frames else sizes


def large_frames() -> bytes:
    """A kernel before 6.3 passes over what it does not know. IPv6 would need an extension header (RFC 2675)."""
    return attr_u32(rtnl.IFLA_GSO_IPV4_MAX_SIZE, LARGE_FRAME_BYTES)


def port_flags(plan: PortPlan) -> bytes:
    open_port = not plan.anti_spoof
    hears_groups = not isinstance(plan, LegPlan)
    return nested(
        rtnl.IFLA_LINKINFO,
        attr(rtnl.IFLA_INFO_SLAVE_KIND, b"bridge"),
        nested(
            rtnl.IFLA_INFO_SLAVE_DATA,
            attr_u8(rtnl.IFLA_BRPORT_LEARNING, open_port),
            attr_u8(rtnl.IFLA_BRPORT_UNICAST_FLOOD, open_port),
            attr_u8(rtnl.IFLA_BRPORT_MCAST_FLOOD, hears_groups),
            attr_u8(rtnl.IFLA_BRPORT_BCAST_FLOOD, hears_groups),
            attr_u8(rtnl.IFLA_BRPORT_ISOLATED, plan.isolated),
        ),
    )


def veth_pair(plan: VethPlan, netns_fd: int) -> tuple[bytes, ...]:
    group = attr_u32(rtnl.IFLA_GROUP, LINK_GROUP)
    peer = (
        rtnl.IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + attr_text(rtnl.IFLA_IFNAME, plan.guest_ifname)
        + attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.mac))
        + attr_u32(rtnl.IFLA_NET_NS_FD, netns_fd)
        + port_sizes(plan)
    )
    info = nested(
        rtnl.IFLA_LINKINFO,
        attr(rtnl.IFLA_INFO_KIND, b"veth"),
        nested(rtnl.IFLA_INFO_DATA, attr(rtnl.VETH_INFO_PEER, peer)),
    )
    return attr_text(rtnl.IFLA_IFNAME, plan.ifname), port_sizes(plan), group, info


def no_ipv6_address() -> bytes:
    mode = attr_u8(rtnl.IFLA_INET6_ADDR_GEN_MODE, rtnl.IN6_ADDR_GEN_MODE_NONE)
    return nested(rtnl.IFLA_AF_SPEC, nested(socket.AF_INET6, mode))
