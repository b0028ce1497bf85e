"""Relay egress of a NAT network in a private namespace: doors inside, threads that dial outside.

guest ── bridge ── mark by the ruleset ── policy route ── TUN ── relay thread ── socket of the host
                        └── established TCP ── tproxy listener ──────┘

Each relay thread has a door of its own: a TUN for what it must see as packets, and a listener of each IP version to
which the kernel brings guests' connections. Doors are opened in the private namespace, by the kernel thread; the
threads are started by one that is outside. The ruleset and the policy routes come from the plan, like all of a network.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from arcbox_net.host.plan import RelayPlan, RelayShard, TunPlan, tun_ifname
from arcbox_net.recipes.site import Layout, Site
from arcbox_net.relay.doors import Door
from arcbox_net.relay.egress import EgressRelay

THREADS_MAX = 4
FLOWS_PER_GUEST_MAX = 4096
GUEST_SHARE = 6  # TCP takes two descriptors a flow and UDP one: one guest at both limits has half of them all
LISTEN_BACKLOG = 4096  # connections that the relay has dialled for already: none may be lost here
_IPV6_TRANSPARENT = 75


def _guest_limits() -> dict[str, int]:
    """How many flows one guest may have, so that it cannot take every descriptor from the others."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = FLOWS_PER_GUEST_MAX
    if descriptors != resource.RLIM_INFINITY:
        most = min(most, descriptors // GUEST_SHARE)
    return {"flows_per_guest_max": most, "udp_flows_per_guest_max": most}


class RelayEgress:
    """The way out of one network. `plan` is what ruleset and routes need to know of it."""

    plan: RelayPlan

    def __init__(self, site: Site, layout: Layout, threads: int | None = None) -> None:
        self._site = site
        self._layout = layout
        self._threads = threads or min(THREADS_MAX, len(os.sched_getaffinity(0)))
        self._relay: EgressRelay | None = None
        self._addresses: list[str] = []
        self._published: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])

    def open(self) -> None:
        """Called inside: open the doors and plan for them. Raises PermissionDenied, Unsupported, KernelError."""
        fds: list[int] = []
        doors: list[Door] = []
        shards: list[RelayShard] = []
        try:
            for index in range(self._threads):
                door, shard = self._open_door(index, fds)
                doors.append(door)
                shards.append(shard)
            self._relay = EgressRelay(doors, **_guest_limits())  # which owns the descriptors from now on
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        self.plan = RelayPlan(tuple(shards))

    def start(self) -> None:
        """Called outside: dial from here for guests, wherever `set_host_addresses` and `set_published` let them."""
        assert self._relay is not None
        self._relay.set_host_addresses(self._addresses)
        self._relay.set_hairpin(*self._published)
        self._relay.start()

    def stop(self) -> None:
        """Reset every flow and close the doors."""
        if self._relay is not None:
            self._relay.stop()

    def is_whole(self) -> bool:
        """Called inside: whether every door is still there; somebody may have deleted its TUN."""
        present = {link.ifname for link in self._site.links.owned()}
        return present.issuperset(shard.tun_ifname for shard in self.plan.shards)

    def set_host_addresses(self, addresses: Iterable[str]) -> None:
        """The addresses of the host, at which guests reach nothing but what is published there."""
        wanted = sorted(set(addresses))
        if wanted != self._addresses:
            self._addresses = wanted
            if self._relay is not None:
                self._relay.set_host_addresses(wanted)

    def set_published(self, tcp: Sequence[tuple[str, int]], udp: Sequence[tuple[str, int]]) -> None:
        """Where guests meet forwarded ports of the host, by address and port."""
        wanted = (list(tcp), list(udp))
        if wanted != self._published:
            self._published = wanted
            if self._relay is not None:
                self._relay.set_hairpin(*wanted)

    def stats(self) -> dict[str, int]:
        return self._relay.stats() if self._relay is not None else {}

    def flows(self) -> list[dict[str, Any]]:
        """What guests are connected to, and the last flows that ended."""
        return self._relay.flows() if self._relay is not None else []

    def _open_door(self, index: int, fds: list[int]) -> tuple[Door, RelayShard]:
        """The door of one thread; every descriptor is in *fds* as soon as it is open."""
        gateway4, gateway6 = self._layout.gateway, self._layout.gateway6
        ifname = tun_ifname(index)
        tun_fd = self._site.links.create_tun(TunPlan(self._site.network, ifname))
        fds.append(tun_fd)
        listener4_fd, tcp4_port = _listen(socket.AF_INET, "127.0.0.1", fds)
        listener6_fd, tcp6_port = _listen(socket.AF_INET6, "::1", fds) if gateway6 else (-1, 0)
        door = Door(
            tun_fd,
            listener4_fd,
            listener6_fd,
            gateway4=str(gateway4) if gateway4 else None,
            gateway6=str(gateway6) if gateway6 else None,
            mtu=self._site.config.mtu,
        )
        return door, RelayShard(index, ifname, tcp4_port, tcp6_port)


def _listen(family: socket.AddressFamily, address: str, fds: list[int]) -> tuple[int, int]:
    """The descriptor, also put into *fds*, and the port of a listener that may be given connections to any address."""
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, socket.IP_TRANSPARENT, 1)
        listener.bind((address, 0))
        listener.listen(LISTEN_BACKLOG)
    except BaseException:
        listener.close()
        raise
    l4_port: int = listener.getsockname()[1]
    fds.append(listener.detach())
    return fds[-1], l4_port
