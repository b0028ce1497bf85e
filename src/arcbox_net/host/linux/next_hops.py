"""Neighbours on one interface as the kernel knows them: next hops, which it is asked to resolve, and permanent entries.

*Theory of operation.* The kernel resolves for those who send through it. Who sends frames past it says so with NTF_USE:
the kernel then asks, and confirms what it knows, as if a packet of its own had been sent there.

    the kernel's entry        is told as   and then
    none                      SOUGHT       the kernel is asked
    INCOMPLETE                as before    it has been asked: what comes of it is a notice
    REACHABLE, DELAY, PROBE   its MAC      nothing: STALE follows when it is not confirmed
    STALE                     its MAC      the kernel is asked to confirm it
    FAILED                    UNREACHABLE  the kernel is asked again, RETRY_S later; unreachable meanwhile
    PERMANENT                 its MAC      nothing: an administrator said so. On the link others than next hops too

What the kernel cannot do (no power, a full table, an address that is no MAC) is told as UNKNOWN.
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import logging
import socket
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from arcbox_net.errors import ArcboxNetError
from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.netlink import NLM_F_CREATE, Message, attr, attr_u32, attrs
from arcbox_net.host.linux.notices import RTNLGRP_NEIGH, Notices
from arcbox_net.host.linux.rtsocket import RouteSocket

RTM_GETNEIGH: Final = 30
NDA_DST: Final = 1
NDA_IFINDEX: Final = 8
NTF_USE: Final = 0x01
NUD_INCOMPLETE: Final = 0x01
NUD_STALE: Final = 0x04
NUD_FAILED: Final = 0x20
NUD_WITH_MAC: Final = 0x02 | NUD_STALE | 0x08 | 0x10 | rtnl.NUD_PERMANENT
RETRY_S: Final = 1.0
PERMANENT_MAX: Final = 256  # entries of hosts that are no next hops

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
log = logging.getLogger("arcbox_net.next_hops")


class Standing(enum.Enum):
    """How a neighbour without a MAC address is. UNKNOWN: whoever needs it asks for it."""

    UNKNOWN = enum.auto()
    SOUGHT = enum.auto()
    UNREACHABLE = enum.auto()


class Entry(NamedTuple):
    """One of the kernel's table. `mac`: '' when it is none that a neighbour can have."""

    ip: Ip
    ifindex: int
    state: int
    mac: str


class NextHops:
    """*tell* is called in the running loop with an address and its MAC address or `Standing`, whenever that changes.

    *netns*: a path or an fd; None: the caller's namespace.
    """

    def __init__(self, tell: Callable[[Ip, str | Standing], None], *, netns: str | int | None = None) -> None:
        self._tell = tell
        self._netns = netns
        self._notices: Notices | None = None
        self._ifindex = 0
        self._next_hops: frozenset[Ip] = frozenset()
        self._networks: tuple[Network, ...] = ()
        self._told: dict[Ip, str | Standing] = {}
        self._timers: dict[Ip, asyncio.TimerHandle] = {}
        self._asked_at: dict[Ip, float] = {}

    def watch(self, ifname: str, next_hops: Collection[Ip], networks: Collection[Network]) -> None:
        """Resolve *next_hops* by that interface, and tell permanent entries in *networks*; also to change any.

        Raises KernelError, InterfaceNotFound, OSError.
        """
        if self._notices is None:
            self._notices = Notices([RTNLGRP_NEIGH], self._take, self._look, netns=self._netns)
            self._notices.listen()
        ifindex = self._notices.rt.need_link(ifname).ifindex
        if ifindex != self._ifindex:
            self._asked_at.clear()
        self._ifindex = ifindex
        self._next_hops = frozenset(next_hops)
        self._networks = tuple(networks)
        self._look()

    def stop(self) -> None:
        """Tell nothing more. Safe to call twice."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def _look(self) -> None:
        """Compare with the whole table."""
        assert self._notices is not None
        head = rtnl.NDMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        listed = self._notices.rt.dump(RTM_GETNEIGH, head + attr_u32(NDA_IFINDEX, self._ifindex))
        entries = {entry.ip: entry for message in listed if (entry := self._entry(message)) is not None}
        for ip in {*self._told, *self._next_hops, *entries}:
            self._judge(ip, entries.get(ip))

    def _take(self, message: Message) -> None:
        if message.kind not in (rtnl.RTM_NEWNEIGH, rtnl.RTM_DELNEIGH):
            return
        entry = self._entry(message)
        if entry is not None:
            self._judge(entry.ip, entry if message.kind == rtnl.RTM_NEWNEIGH else None)

    def _entry(self, message: Message) -> Entry | None:
        entry = entry_of(message)
        return entry if entry is not None and entry.ifindex == self._ifindex else None

    def _judge(self, ip: Ip, entry: Entry | None) -> None:
        """Tell what the kernel's entry says of *ip*, and ask for more if it must be."""
        state = entry.state if entry is not None else 0
        mac = entry.mac if entry is not None and state & NUD_WITH_MAC else ""
        if state & rtnl.NUD_PERMANENT and mac and self._may_tell(ip):
            self._say(ip, mac)
        elif ip not in self._next_hops:
            self._say(ip, Standing.UNKNOWN)
        elif mac:
            self._say(ip, mac)
            if state & NUD_STALE:
                self._ask_soon(ip)
        elif state & NUD_FAILED:
            self._say(ip, Standing.UNREACHABLE)
            self._ask_soon(ip, RETRY_S)
        elif state & ~NUD_INCOMPLETE:
            self._say(ip, Standing.UNKNOWN)
        else:
            if self._told.get(ip) is not Standing.UNREACHABLE:
                self._say(ip, Standing.SOUGHT)
            if not state:
                self._ask_soon(ip)

    def _may_tell(self, ip: Ip) -> bool:
        """Whether a permanent entry is of interest."""
        if ip in self._next_hops:
            return True
        others = sum(told not in self._next_hops for told in self._told)
        is_one_more = ip not in self._told
        return others + is_one_more <= PERMANENT_MAX and any(ip in network for network in self._networks)

    def _say(self, ip: Ip, said: str | Standing) -> None:
        if self._told.get(ip, Standing.UNKNOWN) == said:
            return
        if said is Standing.UNKNOWN:
            del self._told[ip]
        else:
            self._told[ip] = said
        self._tell(ip, said)

    def _ask_soon(self, ip: Ip, delay_s: float = 0.0) -> None:
        """Once, and no more often than each RETRY_S."""
        if ip in self._timers:
            return
        loop = asyncio.get_running_loop()
        again_s = self._asked_at.get(ip, -RETRY_S) + RETRY_S - loop.time()
        self._timers[ip] = loop.call_later(max(delay_s, again_s), self._ask, ip)

    def _ask(self, ip: Ip) -> None:
        del self._timers[ip]
        if ip not in self._next_hops or self._notices is None:
            self._asked_at.pop(ip, None)
            return
        self._asked_at[ip] = asyncio.get_running_loop().time()
        try:
            failure = self._use(self._notices.rt, ip)
        except (ArcboxNetError, OSError) as error:
            failure = str(error)
        if failure:
            if self._told.get(ip) is not None:
                log.warning("the kernel does not resolve %s: %s", ip, failure)
            self._say(ip, Standing.UNKNOWN)
            self._ask_soon(ip)

    def _use(self, rt: RouteSocket, ip: Ip) -> str:
        """Have the kernel ask for *ip*; what it says against it."""
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        address = attr(NDA_DST, ip.packed)
        present = rt.get(RTM_GETNEIGH, rtnl.NDMSG.pack(family, self._ifindex, 0, 0, 0) + address)
        if present is not None and (entry := entry_of(present)) and entry.state & rtnl.NUD_PERMANENT:
            self._judge(ip, entry)  # using it would make it one that ages
            return ""
        head = rtnl.NDMSG.pack(family, self._ifindex, 0, NTF_USE, 0)
        refused = rt.attempt(rtnl.RTM_NEWNEIGH, NLM_F_CREATE, head + address)
        return f"{refused[0]} {refused[1]}" if refused else ""


def entry_of(message: Message) -> Entry | None:
    """The neighbour that an RTM_NEWNEIGH or RTM_DELNEIGH describes; None for a family we do not know."""
    family, ifindex, state, _, _ = rtnl.NDMSG.unpack_from(message.payload)
    found = attrs(message.payload, rtnl.NDMSG.size)
    address = found.get(NDA_DST, b"")
    if family not in (socket.AF_INET, socket.AF_INET6) or len(address) not in (4, 16):
        return None
    mac = found.get(rtnl.NDA_LLADDR, b"")
    usable = len(mac) == 6 and any(mac) and not mac[0] & 1
    return Entry(ipaddress.ip_address(address), ifindex, state, mac.hex(":") if usable else "")
