"""Is a subnet already in use on this host, and by what?"""

from __future__ import annotations

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, NamedTuple

from arcbox_net.host.linux import rtnl
from arcbox_net.host.linux.rtsocket import RouteSocket

# A VPN that takes everything does so with 0.0.0.0/0, or with 0.0.0.0/1 and 128.0.0.0/1. Those clash with no
# subnet.
DEFAULT_PREFIX_MAX: Final = 1
# A site's own addresses are a /48 (RFC 4193): what is wider is an aggregate, such as the `unreachable fd00::/8`
# that routers have. A network's more specific route takes nothing from it.
AGGREGATE6_PREFIX_MAX: Final = 47
Network = IPv4Network | IPv6Network


class RouteClash(NamedTuple):
    """A route or an address of the host that overlaps a subnet. `text` is as `ip` prints it."""

    network: Network
    text: str
    ifname: str

    def __str__(self) -> str:
        return self.text


def default_gateway(
    rt: RouteSocket, ifindex: int, family: socket.AddressFamily
) -> IPv4Address | IPv6Address | None:
    """Where the preferred default route by that link leads."""
    routes = [
        route
        for route in rt.routes(family)
        if route.network.prefixlen == 0
        and ifindex in route.ifindexes
        and (":" in route.gateway if family == socket.AF_INET6 else "." in route.gateway)
    ]
    return ip_address(min(routes, key=lambda route: route.metric).gateway) if routes else None


def find_clashes(rt: RouteSocket, subnet: Network, ignore: Collection[str] = ()) -> list[RouteClash]:
    """What of the host overlaps *subnet*, but for links named in *ignore*: routes first, then addresses."""
    ifnames = {link.ifindex: link.ifname for link in rt.links()}
    return _route_clashes(rt, subnet, ifnames, ignore) + _address_clashes(rt, subnet, ifnames, ignore)


def _route_clashes(
    rt: RouteSocket, subnet: Network, ifnames: dict[int, str], ignore: Collection[str]
) -> list[RouteClash]:
    found = []
    is_ipv4 = subnet.version == 4
    prefix_max = DEFAULT_PREFIX_MAX if is_ipv4 else AGGREGATE6_PREFIX_MAX
    for route in rt.routes(socket.AF_INET if is_ipv4 else socket.AF_INET6):
        network = route.network
        if (
            network.prefixlen <= prefix_max
            or route.table == rtnl.RT_TABLE_LOCAL
            or route.kind not in rtnl.RTN_TYPES
            or not network.overlaps(subnet)
        ):
            continue
        by = [ifnames.get(ifindex, "") for ifindex in route.ifindexes]
        if by and all(ifname in ignore for ifname in by):
            continue
        found.append(RouteClash(network, rtnl.route_text(route, ifnames), by[0] if by else ""))
    return found


def _address_clashes(
    rt: RouteSocket, subnet: Network, ifnames: dict[int, str], ignore: Collection[str]
) -> list[RouteClash]:
    found = []
    for address in rt.addresses(socket.AF_INET if subnet.version == 4 else socket.AF_INET6):
        ifname = ifnames.get(address.ifindex, "")
        network = address.interface.network
        if network.overlaps(subnet) and ifname not in ignore:
            found.append(RouteClash(network, f"address {address.interface} dev {ifname}", ifname))
    return found
