"""A NIC of the host under a bridge of ours: its addresses and routes move to the bridge, and go back as
they were.

*Theory of operation.* What is saved are the kernel's own messages (RTM_NEWADDR, RTM_NEWROUTE), and they are
sent back with nothing changed but the interface index, so that metrics, protocols, scopes and attributes
that this package does not know survive. `journal(saved)` is called before the first change. `give_back`
needs only *saved*: it works after a crash in the middle of `adopt`, in the middle of itself, and twice.

Not moved: link-local IPv6 addresses and connected routes, which the kernel makes by itself from the MAC and
from addresses; temporary IPv6 addresses, which it makes again; the `local` table, which follows addresses.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from arcbox_net.errors import Unsupported
from arcbox_net.host.linux import moved, rtnl
from arcbox_net.host.linux.moved import Saved
from arcbox_net.host.linux.netlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    attr,
    attr_u32,
    kernel_error,
)
from arcbox_net.host.linux.rtnl import Link
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.host.plan import parse_alias

T = TypeVar("T")

SYSFS_NET: Final = Path("/sys/class/net")
CONF_IPV6: Final = Path("/proc/sys/net/ipv6/conf")
# What decides how the bridge, standing in for the NIC, gets and uses IPv6 addresses.
CONF_IPV6_MOVED: Final = (
    "accept_ra",
    "autoconf",
    "use_tempaddr",
    "addr_gen_mode",
    "accept_dad",
    "disable_ipv6",
)
PASSES_MAX: Final = 8  # a route may need another one first; each pass must add at least one


class Inside(Protocol):
    """Runs a function in the network namespace of the links."""

    def __call__(self, function: Callable[[], T], /) -> T: ...


def adopt(
    rt: RouteSocket, inside: Inside, ifname: str, bridge: str, journal: Callable[[Saved], None]
) -> Saved:
    """Put the NIC *ifname* under *bridge*, which takes its MAC, addresses and routes; all or nothing."""
    link = rt.need_link(ifname)
    hub = rt.need_link(bridge)
    check_nic(link, {found.ifindex: found.ifname for found in rt.links()}, inside)
    saved = snapshot(rt, inside, link, hub)
    journal(saved)
    try:
        _move(rt, inside, saved, link, hub)
    except BaseException:
        give_back(rt, inside, saved)
        raise
    return saved


def readopt(rt: RouteSocket, inside: Inside, saved: Saved) -> bool:
    """Do again what `adopt` did, after a crash in its middle or when somebody undid a part of it.

    False when *saved* is of another boot or of a NIC that is gone; then it is worth nothing.
    """
    links = rt.links()
    link = next((found for found in links if found.ifindex == saved["ifindex"]), None)
    hub = next((found for found in links if found.ifname == saved["bridge"]), None)
    if saved["boot_id"] != _boot_id() or link is None or hub is None or link.mac != saved["mac"]:
        return False
    if link.master not in (0, hub.ifindex):
        return False
    _move(rt, inside, saved, link, hub)
    return True


def give_back(rt: RouteSocket, inside: Inside, saved: Saved) -> None:
    """Make the NIC of *saved* what it was; one that is gone or was set up anew by a reboot is let be."""
    if saved["boot_id"] != _boot_id():
        return
    links = {found.ifindex: found for found in rt.links()}
    link = links.get(saved["ifindex"])
    hub = next((found for found in links.values() if found.ifname == saved["bridge"]), None)
    if hub is not None and parse_alias(hub.alias) is not None:
        _take_away(rt, saved, hub)
    if link is None or link.mac != saved["mac"]:
        return
    if link.master:
        _set(rt, link, attr_u32(rtnl.IFLA_MASTER, 0))
    if link.mtu != saved["mtu"]:
        _set(rt, link, attr_u32(rtnl.IFLA_MTU, saved["mtu"]))
    for name, value in saved["ipv6"].items():
        _write_ipv6(inside, link.ifname, name, value)
    _take_away(rt, saved, link)
    if link.up != saved["up"]:
        _set(rt, link, up=saved["up"])
    _put(rt, saved, link)


def _move(rt: RouteSocket, inside: Inside, saved: Saved, link: Link, hub: Link) -> None:
    if hub.mac != link.mac:
        _set(rt, hub, attr(rtnl.IFLA_ADDRESS, rtnl.mac_bytes(link.mac)))
    _set(rt, link, up=True)
    _move_ipv6_conf(inside, saved["ipv6"], hub.ifname)
    if link.master != hub.ifindex:
        _set(rt, link, attr_u32(rtnl.IFLA_MASTER, hub.ifindex))
    _set(rt, hub, up=True)
    _take_away(rt, saved, link)
    _write_ipv6(inside, link.ifname, "disable_ipv6", "1")
    _put(rt, saved, hub)


def check_nic(link: Link, ifnames: dict[int, str], inside: Inside, sysfs: Path = SYSFS_NET) -> None:
    """Raise InterfaceNotFound or Unsupported when *link* cannot be put under a bridge."""
    name = link.ifname
    if link.flags & rtnl.IFF_LOOPBACK or link.arp_type != rtnl.ARPHRD_ETHER:
        raise Unsupported(
            f"{name} is not an Ethernet interface", fix="name a wired NIC", feature="bridge", interface=name
        )
    if link.kind == "bridge":
        raise Unsupported(
            f"{name} is a bridge, and a bridge cannot be under another",
            fix=f"attach guests to it: bridge = {name!r}",
            feature="bridge",
            interface=name,
        )
    if link.master:
        owner = ifnames.get(link.master, f"#{link.master}")
        raise Unsupported(
            f"{name} is already under {owner}",
            fix=f"use {owner}, or free the NIC with `ip link set {name} nomaster`",
            feature="bridge",
            interface=name,
            master=owner,
        )
    if inside(lambda: is_wireless(name, sysfs)):
        raise Unsupported(
            f"{name} is wireless: an access point takes frames of one MAC address only",
            fix="name a wired NIC, or use mode nat",
            feature="bridge",
            interface=name,
        )


def is_wireless(ifname: str, sysfs: Path = SYSFS_NET) -> bool:
    return (sysfs / ifname / "phy80211").exists() or (sysfs / ifname / "wireless").exists()


def snapshot(rt: RouteSocket, inside: Inside, link: Link, hub: Link) -> Saved:
    """What `give_back` needs, as plain JSON values. Raises Unsupported for a route that cannot be moved."""
    names = {found.ifindex: found.ifname for found in rt.links()}
    on_nic = [found for found in rt.addresses() if found.ifindex == link.ifindex]
    addresses = [found for found in on_nic if moved.address_moves(found)]
    found = [route for family in (socket.AF_INET, socket.AF_INET6) for route in rt.routes(family)]
    through = [route for route in found if link.ifindex in route.ifindexes and moved.route_moves(route)]
    for route in through:
        if route.nexthop_id:
            raise Unsupported(
                f"{link.ifname} has a route by a nexthop object: {rtnl.route_text(route, names)}",
                fix="write the route with `via` and `dev`",
                feature="nexthop objects",
                interface=link.ifname,
            )
    return {
        "nic": link.ifname,
        "ifindex": link.ifindex,
        "mac": link.mac,
        "mtu": link.mtu,
        "up": link.up,
        "bridge": hub.ifname,
        "boot_id": _boot_id(),
        "saved_at_s": time.clock_gettime(time.CLOCK_BOOTTIME),
        "ipv6": inside(lambda: _read_ipv6(link.ifname)),
        "addresses": [{"text": str(one.interface), "raw": moved.encode(one.raw)} for one in addresses],
        "routes": [{"text": rtnl.route_text(one, names), "raw": moved.encode(one.raw)} for one in through],
    }


def _take_away(rt: RouteSocket, saved: Saved, link: Link) -> None:
    """Remove the saved routes and addresses from *link*, as far as they are there."""
    for one in saved["routes"]:
        _attempt(
            rt, rtnl.RTM_DELROUTE, 0, moved.route_by(one, saved, link), {errno.ESRCH, errno.ENODEV}, one, link
        )
    for one in saved["addresses"]:
        payload = moved.address_on(one, saved, link)
        gone = {errno.EADDRNOTAVAIL, errno.ENODEV, errno.EAFNOSUPPORT}
        _attempt(rt, rtnl.RTM_DELADDR, 0, payload, gone, one, link)


def _put(rt: RouteSocket, saved: Saved, link: Link) -> None:
    """Add the saved addresses and routes to *link*."""
    there = {errno.EEXIST}
    for one in moved.in_listed_order(saved["addresses"]):
        payload = moved.address_on(one, saved, link)
        if payload:
            _attempt(rt, rtnl.RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload, there, one, link)
    waiting = list(saved["routes"])
    for _ in range(PASSES_MAX):
        failed = []
        for one in waiting:
            payload = moved.route_by(one, saved, link)
            flags = NLM_F_CREATE | (NLM_F_APPEND if payload[0] == socket.AF_INET else NLM_F_EXCL)
            refused = rt.attempt(rtnl.RTM_NEWROUTE, flags, payload)
            if refused and refused[0] not in there:
                failed.append((one, refused))
        if not failed:
            return
        if len(failed) == len(waiting):
            one, refused = failed[0]
            raise kernel_error(f"add route {one['text']} to", link.ifname, *refused)
        waiting = [one for one, _ in failed]


def _attempt(
    rt: RouteSocket,
    kind: int,
    flags: int,
    payload: bytes,
    fine: set[int],
    one: dict[str, str],
    link: Link,
) -> None:
    if payload and (refused := rt.attempt(kind, flags, payload)) and refused[0] not in fine:
        verb = "remove" if kind in (rtnl.RTM_DELADDR, rtnl.RTM_DELROUTE) else "add"
        raise kernel_error(f"{verb} {one['text']} on", link.ifname, *refused)


def _read_ipv6(ifname: str) -> dict[str, str]:
    found = {}
    for name in CONF_IPV6_MOVED:
        with contextlib.suppress(OSError):  # addr_gen_mode "stable-privacy" without a secret reads as EIO
            found[name] = (CONF_IPV6 / ifname / name).read_text().strip()
    return found


def _move_ipv6_conf(inside: Inside, conf: dict[str, str], bridge: str) -> None:
    for name, value in conf.items():
        _write_ipv6(inside, bridge, name, value)


def _write_ipv6(inside: Inside, ifname: str, name: str, value: str) -> None:
    def write() -> None:
        path = CONF_IPV6 / ifname / name
        with contextlib.suppress(OSError):
            if path.read_text().strip() != value:
                path.write_text(value)

    inside(write)


def _set(rt: RouteSocket, link: Link, *members: bytes, up: bool | None = None) -> None:
    rt.set_link(link.ifindex, *members, operation="configure", ifname=link.ifname, up=up)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
