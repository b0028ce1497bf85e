"""Bridges, TAPs and veth pairs of ours. Every one carries our alias, and nothing without it is changed or
removed.

A link is marked at birth by its group number, which the kernel takes in the creating request, and by its
alias right after: a process killed between the two leaves a link that the next one still knows as ours.
nic.py moves NICs, routes.py finds subnets in use.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from arcbox_net.errors import ConfigError, InterfaceNotFound, KernelError
from arcbox_net.host.linux import link_messages as messages
from arcbox_net.host.linux import routes, rtnl, tap
from arcbox_net.host.linux.namespace import in_netns, open_netns, same_netns
from arcbox_net.host.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    attr,
    attr_text,
    attr_u32,
)
from arcbox_net.host.linux.ownership import LINK_GROUP, OwnedLink, describe, fits, foreign, is_ours
from arcbox_net.host.linux.routes import RouteClash
from arcbox_net.host.linux.rtnl import Link, LinkStats
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.host.plan import (
    TXQUEUELEN,
    BridgePlan,
    PortPlan,
    TapPlan,
    VethPlan,
    alias,
    parse_alias,
)

__all__ = ["LinkStats", "Links", "OwnedLink", "RouteClash"]

T = TypeVar("T")


class Links:
    """The links of one network namespace (a path or an fd; None: the caller's). For one thread at a time."""

    def __init__(self, netns: str | int | None = None) -> None:
        self._netns = _own_fd(netns)
        try:
            self._rt = RouteSocket(self._netns)
        except BaseException:
            self._close_netns()
            raise

    def close(self) -> None:
        self._rt.close()
        self._close_netns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Bridges

    def apply_bridge(self, plan: BridgePlan) -> int:
        """Make the bridge as planned and return its ifindex. One that is ours is adopted and put right."""
        link = self._ours_or_none(plan.ifname, plan.network, "bridge") or self._renamed_bridge(plan)
        if link is None:
            link = self._create_bridge(plan)
        else:
            self._adopt_bridge(plan, link)
        if link.mac != plan.mac and not self._has_foreign_port(link):
            self._set(link, attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.mac)), operation="set address of")
        self._rt.new_link(
            attr(rtnl.IFLA_IFALIAS, alias(plan.network).encode()),
            attr_u32(rtnl.IFLA_TXQLEN, TXQUEUELEN),
            messages.bridge_settings(),
            operation="configure bridge",
            ifname=plan.ifname,
            ifindex=link.ifindex,
        )
        if plan.gateway is not None:
            # Guests have no IPv6 path to the host, and no router advertisement of theirs configures it.
            self._disable_ipv6(link)
            self._apply_gateway(link, plan.gateway)
        self._set(link, operation="bring up", up=True)
        return link.ifindex

    def find_bridge(self, ifname: str) -> int:
        """The ifindex of an existing bridge. Raises InterfaceNotFound, whose fix names the bridges there
        are.
        """
        link = self._rt.link(ifname)
        if link is not None and link.kind == "bridge":
            return link.ifindex
        known = [found.ifname for found in self._rt.links() if found.kind == "bridge"]
        raise InterfaceNotFound(
            f"{ifname} is not a bridge" if link else f"no bridge {ifname}",
            fix=f"bridges on this host: {', '.join(known)}"
            if known
            else f"this host has no bridge; make one with `ip link add {ifname} type bridge`",
            interface=ifname,
        )

    def enslave(self, ifname: str, bridge: str) -> None:
        """Put *ifname* under *bridge*."""
        master = self.find_bridge(bridge)
        link = self._rt.need_link(ifname)
        if link.master != master:
            self._set(link, attr_u32(rtnl.IFLA_MASTER, master), operation=f"put under bridge {bridge}:")

    # Ports

    def create_tap(self, plan: TapPlan) -> list[int]:
        """Make a TAP under its bridge, up, and return an fd for each queue; it disappears with the last of
        them.

        A persistent one is opened by name, so its list is empty; one that is there already is put right.
        """
        existing = self._ours_or_none(plan.ifname, plan.network, "tun")
        if existing is not None:
            return self._adopt_tap(plan, existing)
        fds = tap.open_queues(
            plan.ifname,
            plan.queues,
            vnet_hdr=plan.vnet_hdr,
            multi_queue=plan.queues > 1 or plan.multi_queue,
            create=True,
            opener=self._open_tun,
        )
        try:
            tap.set_offloads(fds[0], tap.OFFLOADS_ALL if plan.vnet_hdr and plan.offload else 0)
            self._apply_port(plan, self._rt.need_link(plan.ifname))
            if plan.persist:
                self._persist(plan, fds)
        except BaseException:
            tap.close_all(fds)
            raise
        return fds

    def open_tap(self, ifname: str, queues: int) -> list[int]:
        """One more fd for each of *queues* on a TAP of ours that is there."""
        link = self._rt.need_link(ifname)
        if not is_ours(link) or link.kind != "tun":
            raise KernelError(
                f"{ifname} is not a TAP of arcbox-net", operation="open TAP", object=ifname, errno=errno.EPERM
            )
        return tap.open_queues(
            ifname,
            queues,
            vnet_hdr=rtnl.tun_flag(link, rtnl.IFLA_TUN_VNET_HDR),
            multi_queue=rtnl.tun_flag(link, rtnl.IFLA_TUN_MULTI_QUEUE),
            create=False,
            opener=self._open_tun,
        )

    def create_veth(self, plan: VethPlan, netns_fd: int) -> None:
        """Make a veth pair: our end under the bridge, the other as `plan.guest_ifname` in the namespace
        *netns_fd*.

        A failure removes both ends. The kernel names and moves the guest's end in the creating request, so
        a name that is taken there fails before anything exists.
        """
        self._refuse_own_netns(netns_fd)
        half_made = self._ours_or_none(plan.ifname, plan.network, "veth")
        if half_made is not None and not half_made.alias:
            self._rt.delete_link(half_made)
        self._rt.new_link(*messages.veth_pair(plan, netns_fd), operation="create veth", ifname=plan.ifname)
        try:
            self._apply_port(plan, self._rt.need_link(plan.ifname))
            with RouteSocket(netns_fd) as guest:
                _configure_guest(guest, plan)
        except BaseException:
            with contextlib.suppress(Exception):
                self.remove(plan.ifname)
            raise

    def apply_port(self, plan: PortPlan) -> None:
        """Put an existing port of ours right: its name, bridge, flags and sizes, whatever somebody did to
        them.
        """
        link = self._ours_or_none(plan.ifname, plan.network, "tun" if isinstance(plan, TapPlan) else "veth")
        if link is None:
            link = self._renamed_port(plan)
        self._apply_port(plan, link)

    # What is there

    def owned(self, network: str | None = None) -> list[OwnedLink]:
        """Links of ours, of one network or of all."""
        links = self._rt.links()
        ifnames = {link.ifindex: link.ifname for link in links}
        found = [describe(link, ifnames) for link in links if is_ours(link)]
        return [link for link in found if network is None or link.network == network or fits(link, network)]

    def link_stats(self) -> dict[str, LinkStats]:
        """Counters of our links by name."""
        return {link.ifname: link.stats for link in self._rt.links(stats=True) if is_ours(link)}

    def addresses(self, ifname: str) -> list[IPv4Interface]:
        """The IPv4 addresses of a link; none when there is no such link."""
        link = self._rt.link(ifname)
        found = [] if link is None else self._rt.addresses(socket.AF_INET)
        return [
            address.interface
            for address in found
            if link is not None
            and address.ifindex == link.ifindex
            and isinstance(address.interface, IPv4Interface)
        ]

    def remove(self, ifname: str) -> bool:
        """Remove a link of ours. False when there is none of that name; KernelError when it is not ours."""
        link = self._rt.link(ifname)
        if link is None:
            return False
        if not is_ours(link):
            raise foreign(ifname, "remove")
        try:
            self._rt.delete_link(link)
        except KernelError as error:
            if error.facts.get("errno") != errno.ENODEV:
                raise
            return False
        return True

    def conflicts(self, subnet: IPv4Network, ignore: Collection[str] = ()) -> list[RouteClash]:
        """Routes and addresses of the host that overlap *subnet*, but for links named in *ignore*."""
        return routes.find_clashes(self._rt, subnet, ignore)

    # A NIC under our bridge

    def adopt_nic(
        self, ifname: str, bridge: str, journal: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Put a NIC under a bridge of ours, which takes over its addresses and routes. See nic.py."""
        from arcbox_net.host.linux import nic  # bridge mode only

        return nic.adopt(self._rt, self._inside, ifname, bridge, journal)

    def readopt_nic(self, saved: dict[str, Any]) -> bool:
        """Finish or repeat an adoption. False when *saved* is of another boot or NIC: adopt afresh then."""
        from arcbox_net.host.linux import nic

        return nic.readopt(self._rt, self._inside, saved)

    def return_nic(self, saved: dict[str, Any]) -> None:
        """Give a NIC back as *saved* says it was."""
        from arcbox_net.host.linux import nic

        nic.give_back(self._rt, self._inside, saved)

    # Helpers, in call order

    def _ours_or_none(self, ifname: str, network: str, kind: str) -> Link | None:
        """The link of that name when it is *network*'s, None when there is none; KernelError when it is
        another's.
        """
        link = self._rt.link(ifname)
        if link is None:
            return None
        named = parse_alias(link.alias)
        if link.kind != kind or not is_ours(link) or (named is not None and named[0] != network):
            raise foreign(ifname, "use")
        return link

    def _renamed_bridge(self, plan: BridgePlan) -> Link | None:
        """The network's bridge under a name that somebody else gave it; it gets its own back."""
        for link in self._rt.links():
            if link.kind == "bridge" and parse_alias(link.alias) == (plan.network, None):
                self._rename(link, plan.ifname)
                return link._replace(ifname=plan.ifname)
        return None

    def _renamed_port(self, plan: PortPlan) -> Link:
        for link in self._rt.links():
            if parse_alias(link.alias) == (plan.network, plan.port):
                self._rename(link, plan.ifname)
                return link._replace(ifname=plan.ifname)
        raise InterfaceNotFound(
            f"port {plan.port}: its interface {plan.ifname} is gone",
            fix="attach it again",
            interface=plan.ifname,
        )

    def _rename(self, link: Link, wanted: str) -> None:
        name = attr_text(rtnl.IFLA_IFNAME, wanted)
        try:
            self._set(link, name, operation="rename")
        except KernelError as error:
            if error.facts.get("errno") != errno.EBUSY:  # before Linux 6.2, a link that is up keeps its name
                raise
            self._set(link, operation="bring down", up=False)
            self._set(link, name, operation="rename", up=link.up)

    def _create_bridge(self, plan: BridgePlan) -> Link:
        # A bridge's MTU follows its ports' until it is changed by hand, and setting what it already is
        # changes nothing.
        unwanted = plan.mtu - 1
        self._rt.new_link(
            attr_text(rtnl.IFLA_IFNAME, plan.ifname),
            attr_u32(rtnl.IFLA_MTU, unwanted),
            attr_u32(rtnl.IFLA_GROUP, LINK_GROUP),
            attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.mac)),
            messages.bridge_settings(),
            operation="create bridge",
            ifname=plan.ifname,
        )
        link = self._rt.need_link(plan.ifname)
        try:
            self._set(
                link,
                attr(rtnl.IFLA_IFALIAS, alias(plan.network).encode()),
                attr_u32(rtnl.IFLA_MTU, plan.mtu),
                operation="configure bridge",
            )
            self._disable_ipv6(link)
        except BaseException:
            with contextlib.suppress(Exception):
                self._rt.delete_link(link)
            raise
        return link

    def _adopt_bridge(self, plan: BridgePlan, link: Link) -> None:
        if link.mtu != plan.mtu:
            self._set(link, attr_u32(rtnl.IFLA_MTU, plan.mtu), operation="set MTU of")
        # With STP on, the kernel takes no forward delay of 0, so STP goes first.
        self._rt.new_link(
            messages.bridge_info(attr_u32(rtnl.IFLA_BR_STP_STATE, 0)),
            operation="switch off STP of",
            ifname=plan.ifname,
            ifindex=link.ifindex,
        )

    def _has_foreign_port(self, bridge: Link) -> bool:
        """Is a NIC of the host under *bridge*? Then the bridge has the NIC's address."""
        return any(link.master == bridge.ifindex and not is_ours(link) for link in self._rt.links())

    def _apply_gateway(self, bridge: Link, gateway: IPv4Interface) -> None:
        present = [a for a in self._rt.addresses(socket.AF_INET) if a.ifindex == bridge.ifindex]
        for address in present:
            if address.interface != gateway:
                self._rt.delete_address(address, ifname=bridge.ifname)
        if all(address.interface != gateway for address in present):
            self._rt.add_ipv4(
                bridge.ifindex, gateway.ip.packed, gateway.network.prefixlen, ifname=bridge.ifname
            )

    def _apply_port(self, plan: PortPlan, link: Link) -> None:
        """Name, size, silence and enslave a port; it comes up last, with its bridge-port flags in force."""
        master = self.find_bridge(plan.bridge)
        self._disable_ipv6(link)
        # A TAP or veth drops when its own ring is full and never pushes back: a queue before it never fills.
        # On a multi-queue TAP the default would be 256 queues of 10,000 entries each: 60 MB and 200 ms.
        self._rt.set_noqueue(link.ifindex, ifname=plan.ifname)
        self._set(
            link,
            attr(rtnl.IFLA_IFALIAS, alias(plan.network, plan.port).encode()),
            attr_u32(rtnl.IFLA_GROUP, LINK_GROUP),
            attr(rtnl.IFLA_ADDRESS, _host_mac(plan)),
            attr_u32(rtnl.IFLA_MTU, plan.mtu),
            attr_u32(rtnl.IFLA_TXQLEN, TXQUEUELEN),
            attr_u32(rtnl.IFLA_MASTER, master),
            operation="configure port",
        )
        self._rt.new_link(
            messages.port_flags(plan),
            operation="set bridge flags of",
            ifname=plan.ifname,
            ifindex=link.ifindex,
        )
        if plan.anti_spoof:
            self._pin_mac(plan, link)
        self._set(link, operation="bring up", up=True)

    def _pin_mac(self, plan: PortPlan, link: Link) -> None:
        """The guest's one MAC lives behind this port: nothing is learned, and nothing for others is flooded
        to it.
        """
        payload = rtnl.NDMSG.pack(socket.AF_BRIDGE, link.ifindex, rtnl.NUD_NOARP, rtnl.NTF_MASTER, 0) + attr(
            rtnl.NDA_LLADDR, rtnl.mac_bytes(plan.mac)
        )
        self._rt.request(
            rtnl.RTM_NEWNEIGH,
            NLM_F_CREATE | NLM_F_REPLACE,
            payload,
            operation="pin the guest's MAC on",
            subject=plan.ifname,
        )

    def _adopt_tap(self, plan: TapPlan, existing: Link) -> list[int]:
        if not plan.persist:
            raise KernelError(
                f"TAP {plan.ifname} is still held by a program",
                fix="end the program that has its fd, or detach the port",
                operation="create TAP",
                object=plan.ifname,
                errno=errno.EBUSY,
            )
        self._apply_port(plan, existing)
        return []

    def _persist(self, plan: TapPlan, fds: list[int]) -> None:
        try:
            tap.set_persistent(fds[0], owner_uid=plan.owner_uid)
        except OSError as error:
            raise KernelError(
                f"make TAP {plan.ifname} persistent: {error.strerror}",
                operation="make TAP persistent",
                object=plan.ifname,
                errno=error.errno,
            ) from None
        tap.close_all(fds)

    def _refuse_own_netns(self, netns_fd: int) -> None:
        own = self._netns if self._netns is not None else os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            if same_netns(own, netns_fd):
                raise ConfigError(
                    "the namespace to attach is the network's own",
                    fix="make one for the guest with `ip netns add NAME`, or name a process that has its own",
                    field="netns",
                    value="self",
                )
        finally:
            if own != self._netns:
                os.close(own)

    def _set(self, link: Link, *members: bytes, operation: str, up: bool | None = None) -> None:
        self._rt.set_link(link.ifindex, *members, operation=operation, ifname=link.ifname, up=up)

    def _disable_ipv6(self, link: Link) -> None:
        path = Path(f"/proc/sys/net/ipv6/conf/{link.ifname}/disable_ipv6")
        try:
            self._inside(lambda: path.write_text("1"))
        except FileNotFoundError:
            return  # a kernel without IPv6, or an MTU below its 1280
        except OSError:  # /proc/sys is read-only in most containers: at least no address is made
            self._set(link, messages.no_ipv6_address(), operation="keep IPv6 off")

    def _open_tun(self) -> int:
        return self._inside(tap.open_device)

    def _inside(self, function: Callable[[], T]) -> T:
        """Run what depends on the calling thread's namespace: /proc/sys/net and /dev/net/tun."""
        return function() if self._netns is None else in_netns(self._netns, function)

    def _close_netns(self) -> None:
        if self._netns is not None:
            os.close(self._netns)
            self._netns = None


def _host_mac(plan: PortPlan) -> bytes:
    """The MAC of our end of a port. A bridge without one of its own takes the lowest of its ports', and a
    host that got its address by that MAC must not lose it to a guest: ours are as high as they can be.
    """
    mac = rtnl.mac_bytes(plan.mac)
    return (b"\xfe" if mac[0] != 0xFE else b"\xfa") + mac[1:]


def _own_fd(netns: str | int | None) -> int | None:
    if netns is None:
        return None
    return os.dup(netns) if isinstance(netns, int) else open_netns(netns, None)


def _configure_guest(guest: RouteSocket, plan: VethPlan) -> None:
    """Bring the guest's end up, with address and default route when planned; lo last, as it is not ours to
    undo.
    """
    link = guest.need_link(plan.guest_ifname)
    guest.set_link(link.ifindex, operation="bring up", ifname=link.ifname, up=True)
    if plan.address is not None:
        guest.add_ipv4(
            link.ifindex, plan.address.ip.packed, plan.address.network.prefixlen, ifname=link.ifname
        )
    if plan.gateway is not None:
        guest.add_default_route(link.ifindex, plan.gateway.packed, ifname=link.ifname)
    loopback = guest.need_link("lo")
    guest.set_link(loopback.ifindex, operation="bring up", ifname="lo", up=True)
