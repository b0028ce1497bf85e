"""The links of a network, as one object: bridges, guests' TAPs and veth pairs, and a NIC under a bridge.

Every link of ours carries our alias, and nothing without it is changed or removed. It is marked at birth by its
group number, which the kernel takes in the creating request, and by its alias right after: a process that is
killed between the two leaves a link that the next one still knows as ours.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import TracebackType
from typing import Any, Self

from arcbox_net.errors import InterfaceNotFound
from arcbox_net.host.linux import bridges, guest_links, routes
from arcbox_net.host.linux.kernel import Kernel
from arcbox_net.host.linux.ownership import OwnedLink, describe, fits, is_ours
from arcbox_net.host.linux.routes import RouteClash
from arcbox_net.host.linux.rtnl import ARPHRD_ETHER, LinkStats
from arcbox_net.host.plan import BridgePlan, PortPlan, RelayPlan, SwitchedPlan, TapPlan, TunPlan, VethPlan

__all__ = ["LinkStats", "Links", "OwnedLink", "RouteClash"]


class Links:
    """The links of one network namespace (a path or an fd; None: the caller's). For one thread at a time."""

    def __init__(self, netns: str | int | None = None) -> None:
        self._kernel = Kernel(netns)

    def close(self) -> None:
        self._kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Bridges

    def apply_bridge(self, plan: BridgePlan) -> int:
        """Make the bridge as planned and return its ifindex; one that is ours is adopted and put right."""
        return bridges.apply_bridge(self._kernel, plan)

    def find_bridge(self, ifname: str) -> int:
        """The ifindex of an existing bridge. Raises InterfaceNotFound, whose fix names those there are."""
        return bridges.find_bridge(self._kernel, ifname)

    # Ports

    def create_tap(self, plan: TapPlan) -> list[int]:
        """Make a TAP and return an fd for each queue; none for a persistent one, which is opened by name."""
        return guest_links.create_tap(self._kernel, plan)

    def ensure_tap(self, plan: TapPlan) -> list[int]:
        """Put the TAP right if it is there; otherwise make it, and return what `create_tap` does."""
        try:
            self.apply_port(plan)
        except InterfaceNotFound:
            return self.create_tap(plan)
        return []

    def open_tap(self, ifname: str, queues: int) -> list[int]:
        """One more fd for each of *queues* on a TAP of ours that is there."""
        return guest_links.open_tap(self._kernel, ifname, queues)

    def open_foreign_tap(self, ifname: str) -> int:
        """A queue of a TAP that somebody else made. Raises InterfaceNotFound, KernelError when it is in use."""
        return guest_links.open_foreign_tap(self._kernel, ifname)

    def create_veth(self, plan: VethPlan, netns_fd: int) -> None:
        """Make a veth pair between the bridge and the namespace *netns_fd*; a failure leaves nothing."""
        guest_links.create_veth(self._kernel, plan, netns_fd)

    def apply_port(self, plan: PortPlan) -> None:
        """Put an existing port right: name, bridge, flags and sizes, whatever somebody did to them."""
        guest_links.apply_port(self._kernel, plan)

    # Guests of the user-space switch: its uplink is a TAP, made like one, and has their MACs behind it

    def pin_behind(self, plan: SwitchedPlan) -> None:
        """Let the bridge send what is for this guest to the uplink, which must exist."""
        guest_links.pin_behind(self._kernel, plan)

    def unpin_behind(self, plan: SwitchedPlan) -> None:
        """Forget the guest; nothing of it need be there still."""
        guest_links.unpin_behind(self._kernel, plan)

    # The doors of relay egress, in a private namespace

    def create_tun(self, plan: TunPlan) -> int:
        """Make a TUN and return its fd; it goes with the fd. See tun.py for what passes on it."""
        from arcbox_net.host.linux import tun  # relay egress only

        return tun.create_tun(self._kernel, plan)

    def apply_policy(self, plan: RelayPlan) -> None:
        """Lead marked packets to the TUNs, which must exist, and to the relay's connections; let it forward."""
        from arcbox_net.host.linux import policy

        policy.apply_policy(self._kernel, plan)

    def remove_policy(self, plan: RelayPlan) -> None:
        """Take those rules and routes away again."""
        from arcbox_net.host.linux import policy

        policy.remove_policy(self._kernel, plan)

    # What is there

    def owned(self, network: str | None = None) -> list[OwnedLink]:
        """Links of ours, of one network or of all."""
        links = self._kernel.rt.links()
        ifnames = {link.ifindex: link.ifname for link in links}
        found = [describe(link, ifnames) for link in links if is_ours(link)]
        return [link for link in found if network is None or link.network == network or fits(link, network)]

    def link_stats(self) -> dict[str, LinkStats]:
        """Counters of our links by name."""
        return {link.ifname: link.stats for link in self._kernel.rt.links(stats=True) if is_ours(link)}

    def addresses(
        self, ifname: str, family: socket.AddressFamily = socket.AF_INET
    ) -> list[IPv4Interface | IPv6Interface]:
        """The addresses of a link; none when there is no such link."""
        link = self._kernel.rt.link(ifname)
        found = [] if link is None else self._kernel.rt.addresses(family)
        return [
            address.interface for address in found if link is not None and address.ifindex == link.ifindex
        ]

    def default_gateway(
        self, ifname: str, family: socket.AddressFamily = socket.AF_INET
    ) -> IPv4Address | IPv6Address | None:
        """Where the default route by *ifname* leads, if there is one. Raises InterfaceNotFound."""
        return routes.default_gateway(self._kernel.rt, self._kernel.rt.need_link(ifname).ifindex, family)

    def is_tap(self, ifname: str) -> bool:
        """Whether there is a TAP of that name."""
        link = self._kernel.rt.link(ifname)
        return link is not None and link.kind == "tun" and bool(link.mac)

    def is_ethernet(self, ifname: str) -> bool:
        """Whether frames there have MAC addresses. Raises InterfaceNotFound."""
        return self._kernel.rt.need_link(ifname).arp_type == ARPHRD_ETHER

    def link_state(self, ifname: str) -> str:
        """up, down (also without carrier) or gone."""
        link = self._kernel.rt.link(ifname)
        if link is None:
            return "gone"
        return "up" if link.up and link.carrier else "down"

    def mtu(self, ifname: str) -> int:
        """Raises InterfaceNotFound."""
        return self._kernel.rt.need_link(ifname).mtu

    def host_addresses(self) -> list[str]:
        """Every address of every link, of both IP versions."""
        return [str(address.interface.ip) for address in self._kernel.rt.addresses()]

    def remove(self, ifname: str) -> bool:
        """Remove a link of ours. False when there is none of that name; KernelError when it is not ours."""
        return self._kernel.remove(ifname)

    def conflicts(self, subnet: IPv4Network | IPv6Network, ignore: Collection[str] = ()) -> list[RouteClash]:
        """Routes and addresses of the host that overlap *subnet*, but for links named in *ignore*."""
        return routes.find_clashes(self._kernel.rt, subnet, ignore)

    # A NIC under our bridge

    def adopt_nic(
        self, ifname: str, bridge: str, journal: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Put a NIC under a bridge of ours, which takes over its addresses and routes. See nic.py."""
        from arcbox_net.host.linux import nic  # bridge mode only

        return nic.adopt(self._kernel.rt, self._kernel.inside, ifname, bridge, journal)

    def readopt_nic(self, saved: dict[str, Any]) -> bool:
        """Finish or repeat an adoption. False when *saved* is of another boot or NIC: adopt afresh then."""
        from arcbox_net.host.linux import nic

        return nic.readopt(self._kernel.rt, self._kernel.inside, saved)

    def return_nic(self, saved: dict[str, Any]) -> None:
        """Give a NIC back as *saved* says it was."""
        from arcbox_net.host.linux import nic

        nic.give_back(self._kernel.rt, self._kernel.inside, saved)
