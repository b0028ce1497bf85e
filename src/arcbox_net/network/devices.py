"""The kernel's side of guest ports: device and filter, made and removed together, and what the kernel says of them.

Called in the kernel thread. Guests of the switch have no device of their own: their part is the filter.
"""

from __future__ import annotations

import os

from arcbox_net.errors import PermissionDenied
from arcbox_net.host.plan import SwitchedPlan, TapPlan, VethPlan
from arcbox_net.network.guest_port import NETNS, Port
from arcbox_net.network.messages import PortInfo
from arcbox_net.network.ports import PortTable
from arcbox_net.network.views import port_info
from arcbox_net.recipes.site import Site


def connect(site: Site, port: Port) -> list[int]:
    """Make the device of *port*, its filter first. Returns the TAP's fds; leaves nothing behind on failure."""
    site.firewall.add_port(port.plan)
    try:
        if isinstance(port.plan, TapPlan):
            return site.links.create_tap(port.plan)
        if isinstance(port.plan, VethPlan):
            netns = port.open_netns()
            try:
                site.links.create_veth(port.plan, netns)
            finally:
                os.close(netns)
        return []
    except PermissionDenied as error:
        disconnect(site, port)
        raise _beyond_reach(port) if site.is_private and port.kind == NETNS else error from None
    except BaseException:
        disconnect(site, port)
        raise


def _beyond_reach(port: Port) -> PermissionDenied:
    """A private network has power over the namespaces below its own user namespace, and over no others."""
    network = port.plan.network
    return PermissionDenied(
        f"{port.netns}: a network without privileges cannot attach a namespace that was made outside it",
        fix=f"start the guest in one: arcbox-net run {network} -- CMD; or run the network with sudo",
        operation="attach namespace",
        namespace=port.netns,
    )


def disconnect(site: Site, port: Port) -> None:
    """Remove the device, then its filter, so that no unfiltered frame passes in between."""
    if isinstance(port.plan, SwitchedPlan):
        site.links.unpin_behind(port.plan)
    else:
        site.links.remove(port.plan.ifname)
    site.firewall.remove_port(port.plan)


def port_infos(site: Site, ports: PortTable) -> list[PortInfo]:
    """Every port that has a device, with its state and counters; guest's view: rx is what the guest received."""
    present = {link.ifname: link for link in site.links.owned(site.network)}
    counters = site.links.link_stats()
    found = []
    for port in ports:
        if port.socket is not None:
            continue
        link = present.get(port.plan.ifname)
        stats = counters.get(port.plan.ifname)
        found.append(
            port_info(
                port,
                "gone" if link is None else "up" if link.carrier else "down",
                queues=port.plan.queues if isinstance(port.plan, TapPlan) else 1,
                netns=port.netns,
                rx_bytes=stats.tx_bytes if stats else 0,
                rx_packets=stats.tx_packets if stats else 0,
                tx_bytes=stats.rx_bytes if stats else 0,
                tx_packets=stats.rx_packets if stats else 0,
            )
        )
    return found
