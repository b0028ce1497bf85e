"""A guest's TAP or veth pair: made, put under its bridge with its flags, and put right again."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from arcbox_net.errors import ConfigError, InterfaceNotFound, KernelError, PermissionDenied
from arcbox_net.host.linux import link_messages as messages
from arcbox_net.host.linux import rtnl, tap
from arcbox_net.host.linux.bridges import find_bridge
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.namespace import in_netns
from arcbox_net.host.linux.netlink import NLM_F_CREATE, NLM_F_REPLACE, attr, attr_u32
from arcbox_net.host.linux.ownership import LINK_GROUP, is_ours
from arcbox_net.host.linux.rtnl import Link
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.host.plan import PortPlan, SwitchedPlan, TapPlan, UplinkPlan, VethPlan, alias, parse_alias


def create_tap(kernel: Kernel, plan: TapPlan) -> list[int]:
    """Make a TAP under its bridge, up, and return an fd for each queue; it goes with the last of them.

    A persistent one is opened by name, so its list is empty; one that is there already is put right.
    """
    existing = kernel.ours_or_none(plan.ifname, plan.network, "tun")
    if existing is not None:
        return _adopt_tap(kernel, plan, existing)
    fds = tap.open_queues(
        plan.ifname,
        plan.queues,
        vnet_hdr=plan.vnet_hdr,
        multi_queue=plan.queues > 1 or plan.multi_queue,
        create=True,
        opener=kernel.open_tun,
    )
    try:
        tap.set_offloads(fds[0], tap.OFFLOADS_ALL if plan.vnet_hdr and plan.offload else 0)
        _apply(kernel, plan, kernel.rt.need_link(plan.ifname))
        if plan.persist:
            _persist(plan, fds)
    except BaseException:
        tap.close_all(fds)
        raise
    return fds


def open_tap(kernel: Kernel, ifname: str, queues: int) -> list[int]:
    """One more fd for each of *queues* on a TAP of ours that is there."""
    link = kernel.rt.need_link(ifname)
    if not is_ours(link) or link.kind != "tun":
        raise KernelError(
            f"{ifname} is not a TAP of arcbox-net", operation="open TAP", object=ifname, errno=errno.EPERM
        )
    return _open_queues(kernel, link, queues, vnet_hdr=rtnl.tun_flag(link, rtnl.IFLA_TUN_VNET_HDR))


def open_foreign_tap(kernel: Kernel, ifname: str) -> int:
    """A queue of a TAP that somebody else made, with all offloads. Raises InterfaceNotFound when there is none."""
    link = kernel.rt.need_link(ifname)
    (fd,) = _open_queues(kernel, link, 1, vnet_hdr=True)
    try:
        if kernel.rt.need_link(ifname).ifindex != link.ifindex:  # it went, and opening made another one
            raise InterfaceNotFound(f"TAP {ifname} is gone", interface=ifname)
        tap.set_offloads(fd, tap.OFFLOADS_ALL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_queues(kernel: Kernel, link: Link, queues: int, *, vnet_hdr: bool) -> list[int]:
    return tap.open_queues(
        link.ifname,
        queues,
        vnet_hdr=vnet_hdr,
        multi_queue=rtnl.tun_flag(link, rtnl.IFLA_TUN_MULTI_QUEUE),
        create=False,
        opener=kernel.open_tun,
    )


def create_veth(kernel: Kernel, plan: VethPlan, netns_fd: int) -> None:
    """Make a veth pair, our end under the bridge and the guest's in the namespace *netns_fd*.

    A failure removes both ends. The kernel names and moves the guest's end in the creating request, so
    a name that is taken there fails before anything exists.
    """
    kernel.refuse_own_netns(netns_fd)
    half_made = kernel.ours_or_none(plan.ifname, plan.network, "veth")
    if half_made is not None and not half_made.alias:
        kernel.rt.delete_link(half_made)
    kernel.rt.new_link(*messages.veth_pair(plan, netns_fd), operation="create veth", ifname=plan.ifname)
    try:
        _apply(kernel, plan, kernel.rt.need_link(plan.ifname))
        with RouteSocket(netns_fd) as guest:
            if plan.address6 is not None:
                in_netns(netns_fd, lambda: _prepare_ipv6(plan.guest_ifname))
            _configure_guest(guest, plan)
    except BaseException:
        with contextlib.suppress(Exception):
            kernel.remove(plan.ifname)
        raise


def apply_port(kernel: Kernel, plan: PortPlan) -> None:
    """Put an existing port right: name, bridge, flags and sizes, whatever somebody did to them."""
    link = kernel.ours_or_none(plan.ifname, plan.network, "tun" if isinstance(plan, TapPlan) else "veth")
    if link is None:
        link = _renamed(kernel, plan)
    _apply(kernel, plan, link)


def _apply(kernel: Kernel, plan: PortPlan, link: Link) -> None:
    """Name, size, silence and enslave a port; it comes up last, with its bridge-port flags in force."""
    master = find_bridge(kernel, plan.bridge)
    kernel.disable_ipv6(link)
    # A TAP or veth drops when its own ring is full and never pushes back: a queue before it never fills.
    # On a multi-queue TAP the default would be 256 queues of 10,000 entries each: 60 MB and 200 ms.
    kernel.rt.set_noqueue(link.ifindex, ifname=plan.ifname)
    kernel.set_link(
        link,
        attr(rtnl.IFLA_IFALIAS, alias(plan.network, plan.port).encode()),
        attr_u32(rtnl.IFLA_GROUP, LINK_GROUP),
        attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(plan.host_mac)),
        messages.port_sizes(plan),
        attr_u32(rtnl.IFLA_MASTER, master),
        operation="configure port",
    )
    if isinstance(plan, VethPlan) and plan.large_frames:
        # Refused while a port is there that does not take them. When one comes, the kernel takes them back.
        with contextlib.suppress(KernelError):
            kernel.rt.set_link(
                master, messages.large_frames(), operation="allow large frames on", ifname=plan.bridge
            )
    kernel.rt.new_link(
        messages.port_flags(plan),
        operation="set bridge flags of",
        ifname=plan.ifname,
        ifindex=link.ifindex,
    )
    if plan.anti_spoof and not isinstance(plan, UplinkPlan):
        _pin_mac(kernel, plan, link)
    kernel.set_link(link, operation="bring up", up=True)


def pin_behind(kernel: Kernel, plan: SwitchedPlan) -> None:
    """Let the bridge send what is for this guest to the uplink, which must exist."""
    if plan.anti_spoof:
        _pin_mac(kernel, plan, kernel.rt.need_link(plan.ifname))


def unpin_behind(kernel: Kernel, plan: SwitchedPlan) -> None:
    """The guest is gone. Neither its place nor the uplink need be there still."""
    link = kernel.rt.link(plan.ifname)
    if link is not None:
        kernel.rt.attempt(rtnl.RTM_DELNEIGH, 0, _place_of(plan, link))


def _renamed(kernel: Kernel, plan: PortPlan) -> Link:
    for link in kernel.rt.links():
        if parse_alias(link.alias) == (plan.network, plan.port):
            kernel.rename(link, plan.ifname)
            return link._replace(ifname=plan.ifname)
    raise InterfaceNotFound(
        f"port {plan.port}: its interface {plan.ifname} is gone",
        fix="attach it again",
        interface=plan.ifname,
    )


def _pin_mac(kernel: Kernel, plan: PortPlan, link: Link) -> None:
    """The guest's one MAC lives behind this port: nothing is learned, nothing for others flooded to it."""
    kernel.rt.request(
        rtnl.RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        _place_of(plan, link),
        operation="pin the guest's MAC on",
        subject=plan.ifname,
    )


def _place_of(plan: PortPlan, link: Link) -> bytes:
    return rtnl.NDMSG.pack(socket.AF_BRIDGE, link.ifindex, rtnl.NUD_NOARP, rtnl.NTF_MASTER, 0) + attr(
        rtnl.NDA_LLADDR, rtnl.mac_bytes(plan.mac)
    )


def _adopt_tap(kernel: Kernel, plan: TapPlan, existing: Link) -> list[int]:
    if not plan.persist:
        raise KernelError(
            f"TAP {plan.ifname} is still held by a program",
            fix="end the program that has its fd, or detach the port",
            operation="create TAP",
            object=plan.ifname,
            errno=errno.EBUSY,
        )
    _apply(kernel, plan, existing)
    return []


def _persist(plan: TapPlan, fds: list[int]) -> None:
    try:
        tap.set_persistent(fds[0], owner_uid=plan.owner_uid)
    except OSError as error:
        if error.errno == errno.EINVAL and plan.owner_uid is not None:
            raise ConfigError(
                f"owner_uid {plan.owner_uid}: in a network without privileges there is no such user",
                fix="leave owner_uid out: whoever may use the network may open its TAPs",
                field="owner_uid",
                value=plan.owner_uid,
            ) from None
        raise KernelError(
            f"make TAP {plan.ifname} persistent: {error.strerror}",
            operation="make TAP persistent",
            object=plan.ifname,
            errno=error.errno,
        ) from None
    tap.close_all(fds)


def _prepare_ipv6(ifname: str) -> None:
    """Let the guest's end take its routes from advertisements, even if it forwards, and ask for them at once.

    Nobody else has the address that is made of its MAC, so waiting for somebody to say so is for nothing.
    """
    for name, value in (("accept_ra", "2"), ("accept_dad", "0")):
        with contextlib.suppress(OSError):  # no IPv6 there, or /proc/sys is read-only: slower, at worst
            Path(f"/proc/sys/net/ipv6/conf/{ifname}/{name}").write_text(value)


def _configure_guest(guest: RouteSocket, plan: VethPlan) -> None:
    """Bring the guest's end up, addressed when planned so; lo last, as it is not ours to undo."""
    link = guest.need_link(plan.guest_ifname)
    guest.set_link(link.ifindex, operation="bring up", ifname=link.ifname, up=True)
    if plan.address is not None:
        guest.add_ipv4(
            link.ifindex, plan.address.ip.packed, plan.address.network.prefixlen, ifname=link.ifname
        )
    if plan.address6 is not None:
        # A guest that has IPv6 switched off does without.
        with contextlib.suppress(KernelError, PermissionDenied):
            guest.add_ipv6(
                link.ifindex, plan.address6.ip.packed, plan.address6.network.prefixlen, ifname=link.ifname
            )
    if plan.gateway is not None:
        guest.add_default_route(link.ifindex, plan.gateway.packed, ifname=link.ifname)
    loopback = guest.need_link("lo")
    guest.set_link(loopback.ifindex, operation="bring up", ifname="lo", up=True)
