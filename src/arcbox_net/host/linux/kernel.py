"""The kernel of one network namespace: its rtnetlink, and what only a thread inside can do."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from arcbox_net.errors import ConfigError, KernelError, PermissionDenied
from arcbox_net.host.linux import link_messages as messages
from arcbox_net.host.linux import rtnl, tap
from arcbox_net.host.linux.namespace import in_netns, open_netns, same_netns
from arcbox_net.host.linux.netlink import attr_text, kernel_error
from arcbox_net.host.linux.ownership import foreign, is_ours
from arcbox_net.host.linux.rtnl import Link
from arcbox_net.host.linux.rtsocket import RouteSocket
from arcbox_net.host.plan import parse_alias

SYSCTL_FIX = (
    "make /proc/sys writable; a container's is with docker run --security-opt systempaths=unconfined,"
    " or podman run --security-opt unmask=/proc/sys"
)
T = TypeVar("T")


class Kernel:
    """For one thread at a time. *netns*: a path or an fd; None: the caller's namespace."""

    def __init__(self, netns: str | int | None = None) -> None:
        self._netns = _own_fd(netns)
        try:
            self.rt = RouteSocket(self._netns)
        except BaseException:
            self._close_netns()
            raise

    def close(self) -> None:
        self.rt.close()
        self._close_netns()

    def remove(self, ifname: str) -> bool:
        """Remove a link of ours. False when there is none of that name; KernelError when it is not ours."""
        link = self.rt.link(ifname)
        if link is None:
            return False
        if not is_ours(link):
            raise foreign(ifname, "remove")
        try:
            self.rt.delete_link(link)
        except KernelError as error:
            if error.facts.get("errno") != errno.ENODEV:
                raise
            return False
        return True

    def ours_or_none(self, ifname: str, network: str, kind: str) -> Link | None:
        """The link of that name if it is *network*'s, None if there is none. KernelError: another's."""
        link = self.rt.link(ifname)
        if link is None:
            return None
        named = parse_alias(link.alias)
        if link.kind != kind or not is_ours(link) or (named is not None and named[0] != network):
            raise foreign(ifname, "use")
        return link

    def rename(self, link: Link, wanted: str) -> None:
        name = attr_text(rtnl.IFLA_IFNAME, wanted)
        try:
            self.set_link(link, name, operation="rename")
        except KernelError as error:
            if error.facts.get("errno") != errno.EBUSY:  # before Linux 6.2, a link that is up keeps its name
                raise
            self.set_link(link, operation="bring down", up=False)
            self.set_link(link, name, operation="rename", up=link.up)

    def set_link(self, link: Link, *members: bytes, operation: str, up: bool | None = None) -> None:
        self.rt.set_link(link.ifindex, *members, operation=operation, ifname=link.ifname, up=up)

    def disable_ipv6(self, link: Link) -> None:
        path = Path(f"/proc/sys/net/ipv6/conf/{link.ifname}/disable_ipv6")
        try:
            self.inside(lambda: path.write_text("1"))
        except FileNotFoundError:
            return  # a kernel without IPv6, or an MTU below its 1280
        except OSError:  # /proc/sys is read-only in most containers: at least no address is made
            self.set_link(link, messages.no_ipv6_address(), operation="keep IPv6 off")

    def enable_ipv6(self, link: Link) -> None:
        """Raises KernelError where that cannot be."""
        path = Path(f"/proc/sys/net/ipv6/conf/{link.ifname}/disable_ipv6")
        try:
            if self.inside(path.read_text).strip() != "0":
                self.inside(lambda: path.write_text("0"))
        except OSError as error:
            raise kernel_error("enable IPv6 on", link.ifname, error.errno or 0) from None

    def write_sysctl(self, name: str, value: str) -> None:
        """Set /proc/sys/*name*, unless it is so. One that this kernel does not have is let be."""
        path = Path("/proc/sys") / name

        def write() -> None:
            if path.read_text().strip() != value:
                path.write_text(value)

        try:
            self.inside(write)
        except FileNotFoundError:
            return
        except OSError as error:
            setting = name.replace("/", ".")
            if error.errno in (errno.EROFS, errno.EACCES):
                raise PermissionDenied(
                    f"write sysctl {setting}: {error.strerror}",
                    fix=SYSCTL_FIX,
                    operation="write sysctl",
                    setting=setting,
                ) from None
            raise kernel_error("write sysctl", setting, error.errno or 0) from None

    def open_tun(self) -> int:
        return self.inside(tap.open_device)

    def inside(self, function: Callable[[], T]) -> T:
        """Run what depends on the calling thread's namespace: /proc/sys/net and /dev/net/tun."""
        return function() if self._netns is None else in_netns(self._netns, function)

    def refuse_own_netns(self, netns_fd: int) -> None:
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

    def _close_netns(self) -> None:
        if self._netns is not None:
            os.close(self._netns)
            self._netns = None


def _own_fd(netns: str | int | None) -> int | None:
    if netns is None:
        return None
    return os.dup(netns) if isinstance(netns, int) else open_netns(netns, None)
