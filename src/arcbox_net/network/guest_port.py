"""One guest port: what is asked of it, what it is, and the row that outlives a crash."""

from __future__ import annotations

import dataclasses
import os
import time
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from arcbox_net.errors import NamespaceNotFound
from arcbox_net.host.plan import SwitchedPlan, TapPlan, VethPlan
from arcbox_net.network.messages import AttachRequest

NETNS = "netns"


class PortRequest(AttachRequest, frozen=True):
    """What a caller asks of a new port, over either socket; None means: choose."""

    persist: bool = False
    vnet_hdr: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Socket:
    """Where a guest's socket is. `connect`: the guest's monitor listens there, and we dial.

    `remote`: where datagrams go, None for where they come from. `owner_uid`: who may connect besides us.
    `queues`: queue pairs that a vhost-user guest is offered. `holder`: the process that the port goes with.
    """

    path: str
    connect: bool = False
    remote: str | None = None
    owner_uid: int | None = None
    queues: int = 1
    holder: int | None = None

    def paths(self) -> tuple[str | None, ...]:
        return self.path, self.remote


@dataclasses.dataclass(frozen=True, slots=True)
class Port:
    """An attached port. `plan` is its device, `hostname` its DNS name, `ip6` the address made of its MAC.

    `netns` is a path or `pid N`; `netns_inode` tells whether it still means the namespace it meant. `socket` is where
    the guest of a SwitchedPlan is met.
    """

    kind: str
    plan: TapPlan | VethPlan | SwitchedPlan
    hostname: str
    netns: str | None = None
    attached_ns: int = dataclasses.field(default_factory=time.time_ns)
    ip6: IPv6Address | None = None
    netns_inode: int | None = None
    socket: Socket | None = None

    @property
    def name(self) -> str:
        return self.plan.port

    @property
    def ip(self) -> IPv4Address | None:
        return self.plan.ips[0] if self.plan.ips else None

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        """Those that it was given, and the one made of its MAC."""
        return (*self.plan.ips, *((self.ip6,) if self.ip6 else ()))

    def open_netns(self) -> int:
        """A new fd of the guest's network namespace. Raises NamespaceNotFound, PermissionDenied."""
        from arcbox_net.host.linux import namespace

        assert self.netns is not None
        fd = namespace.open_guest(self.netns)
        if self.netns_inode is not None and os.fstat(fd).st_ino != self.netns_inode:
            os.close(fd)
            raise NamespaceNotFound(f"{self.netns} is another namespace now", namespace=self.netns)
        return fd

    def to_row(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "kind": self.kind,
            "ifname": plan.ifname,
            "mac": plan.mac,
            "ips": [str(ip) for ip in plan.ips],
            "hostname": self.hostname,
            "netns": self.netns,
            "netns_inode": self.netns_inode,
            "attached_ns": self.attached_ns,
            "queues": plan.queues if isinstance(plan, TapPlan) else 1,
            "persist": isinstance(plan, TapPlan) and plan.persist,
            "owner_uid": plan.owner_uid if isinstance(plan, TapPlan) else None,
            "guest_ifname": plan.guest_ifname if isinstance(plan, VethPlan) else None,
            "configured": isinstance(plan, VethPlan) and bool(plan.address or plan.address6),
            "socket": dataclasses.asdict(self.socket) if self.socket else None,
        }
