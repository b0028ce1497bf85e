"""Bridges of ours as planned, and other bridges found by name."""

from __future__ import annotations

import contextlib
import socket
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from arcbox_net.errors import InterfaceNotFound
from arcbox_net.host.linux import link_messages as messages
from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.netlink import attr, attr_text, attr_u32
from arcbox_net.host.linux.ownership import LINK_GROUP, is_ours
from arcbox_net.host.linux.rtnl import Link
from arcbox_net.host.linux.segments import limit_segments
from arcbox_net.host.plan import GATEWAY_LINK_LOCAL, TXQUEUELEN, BridgePlan, alias, parse_alias


def apply_bridge(kernel: Kernel, plan: BridgePlan) -> int:
    """Make the bridge as planned and return its ifindex. One that is ours is adopted and put right."""
    link = kernel.ours_or_none(plan.ifname, plan.network, "bridge") or _renamed(kernel, plan)
    if link is None:
        link = _create(kernel, plan)
    else:
        _adopt(kernel, plan, link)
    if link.mac != plan.mac and not _has_foreign_port(kernel, link):
        kernel.set_link(link, attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.mac)), operation="set address of")
    kernel.rt.new_link(
        attr(rtnl.IFLA_IFALIAS, alias(plan.network).encode()),
        attr_u32(rtnl.IFLA_TXQLEN, TXQUEUELEN),
        messages.bridge_settings(),
        operation="configure bridge",
        ifname=plan.ifname,
        ifindex=link.ifindex,
    )
    if plan.gateway is not None:
        _apply_gateway(kernel, link, plan.gateway)
    if plan.gateway6 is not None:
        _apply_gateway6(kernel, link, plan.gateway6)
    elif plan.gateway is not None:
        # Guests have no IPv6 path to the host, and no router advertisement of theirs configures it.
        kernel.disable_ipv6(link)
    kernel.set_link(link, operation="bring up", up=True)
    limit_segments(kernel, link, plan.mtu)
    return link.ifindex


def find_bridge(kernel: Kernel, ifname: str) -> int:
    """The ifindex of an existing bridge. Raises InterfaceNotFound, whose fix names those there are."""
    link = kernel.rt.link(ifname)
    if link is not None and link.kind == "bridge":
        return link.ifindex
    known = [found.ifname for found in kernel.rt.links() if found.kind == "bridge"]
    raise InterfaceNotFound(
        f"{ifname} is not a bridge" if link else f"no bridge {ifname}",
        fix=f"bridges on this host: {', '.join(known)}"
        if known
        else f"this host has no bridge; make one with `ip link add {ifname} type bridge`",
        interface=ifname,
    )


def _renamed(kernel: Kernel, plan: BridgePlan) -> Link | None:
    """The network's bridge under a name that somebody else gave it; it gets its own back."""
    for link in kernel.rt.links():
        if link.kind == "bridge" and parse_alias(link.alias) == (plan.network, None):
            kernel.rename(link, plan.ifname)
            return link._replace(ifname=plan.ifname)
    return None


def _create(kernel: Kernel, plan: BridgePlan) -> Link:
    # A bridge's MTU follows its ports' until it is changed by hand, and setting what it already is
    # changes nothing.
    unwanted = plan.mtu - 1
    kernel.rt.new_link(
        attr_text(rtnl.IFLA_IFNAME, plan.ifname),
        attr_u32(rtnl.IFLA_MTU, unwanted),
        attr_u32(rtnl.IFLA_GROUP, LINK_GROUP),
        attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.mac)),
        messages.bridge_settings(),
        operation="create bridge",
        ifname=plan.ifname,
    )
    link = kernel.rt.need_link(plan.ifname)
    try:
        kernel.set_link(
            link,
            attr(rtnl.IFLA_IFALIAS, alias(plan.network).encode()),
            attr_u32(rtnl.IFLA_MTU, plan.mtu),
            operation="configure bridge",
        )
        if plan.gateway6 is None:
            kernel.disable_ipv6(link)
        else:
            kernel.set_link(link, messages.no_ipv6_address(), operation="keep link-local addresses off")
    except BaseException:
        with contextlib.suppress(Exception):
            kernel.rt.delete_link(link)
        raise
    return link


def _adopt(kernel: Kernel, plan: BridgePlan, link: Link) -> None:
    if link.mtu != plan.mtu:
        kernel.set_link(link, attr_u32(rtnl.IFLA_MTU, plan.mtu), operation="set MTU of")
    # With STP on, the kernel takes no forward delay of 0, so STP goes first.
    kernel.rt.new_link(
        messages.bridge_info(attr_u32(rtnl.IFLA_BR_STP_STATE, 0)),
        operation="switch off STP of",
        ifname=plan.ifname,
        ifindex=link.ifindex,
    )


def _has_foreign_port(kernel: Kernel, bridge: Link) -> bool:
    """Is a NIC of the host under *bridge*? Then the bridge has the NIC's address."""
    return any(link.master == bridge.ifindex and not is_ours(link) for link in kernel.rt.links())


def _apply_gateway(kernel: Kernel, bridge: Link, gateway: IPv4Interface) -> None:
    present = [a for a in kernel.rt.addresses(socket.AF_INET) if a.ifindex == bridge.ifindex]
    for address in present:
        if address.interface != gateway:
            kernel.rt.delete_address(address, ifname=bridge.ifname)
    if all(address.interface != gateway for address in present):
        kernel.rt.add_ipv4(bridge.ifindex, gateway.ip.packed, gateway.network.prefixlen, ifname=bridge.ifname)


def _apply_gateway6(kernel: Kernel, bridge: Link, gateway: IPv6Interface) -> None:
    """Our two addresses and no others, as the router of the link that it is."""
    kernel.set_link(bridge, messages.no_ipv6_address(), operation="keep other link-local addresses off")
    kernel.enable_ipv6(bridge)
    for name, value in (
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        (
            "forwarding",
            "1",
        ),  # or its neighbour advertisements say that it is no router, and guests drop the route
    ):
        path = Path(f"/proc/sys/net/ipv6/conf/{bridge.ifname}/{name}")
        with contextlib.suppress(OSError):  # /proc/sys is read-only in most containers
            kernel.inside(lambda path=path, value=value: path.write_text(value))  # type: ignore[misc]
    wanted = (gateway, GATEWAY_LINK_LOCAL)
    present = [a for a in kernel.rt.addresses(socket.AF_INET6) if a.ifindex == bridge.ifindex]
    for address in present:
        if address.interface not in wanted:
            kernel.rt.delete_address(address, ifname=bridge.ifname)
    for interface in wanted:
        if all(address.interface != interface for address in present):
            prefix = interface.network.prefixlen
            kernel.rt.add_ipv6(bridge.ifindex, interface.ip.packed, prefix, ifname=bridge.ifname)
