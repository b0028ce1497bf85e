"""The two sides of the NAT engine: its uplink, an interface of the host, and its leg on the network's bridge."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from arcbox_net.addresses import stable_mac
from arcbox_net.config import MTU_IPV6_MIN, MTU_MAX
from arcbox_net.config_engine import uplink_of
from arcbox_net.errors import AddressInUse, ConfigError, InterfaceNotFound
from arcbox_net.host.plan import ROUTER, LegPlan, leg_ifname
from arcbox_net.recipes.site import Layout, Site

if TYPE_CHECKING:
    from arcbox_net.host.linux.links import Links


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUplink:
    """Addresses are with the prefix that is on the link. A next hop that is None: nothing beyond the link is reached.

    `external6` is None for IPv4 only. `by_kernel`: the next hops that the kernel can resolve.
    """

    ifname: str
    is_tap: bool
    external: IPv4Interface
    next_hop: IPv4Address | None
    external6: IPv6Interface | None
    next_hop6: IPv6Address | None
    mtu: int
    by_kernel: tuple[IPv4Address | IPv6Address, ...] = ()


def router_mac(network: str) -> str:
    """What the engine's router is to guests on the bridge."""
    return stable_mac(network, ROUTER)


def leg_plan(site: Site, layout: Layout) -> LegPlan:
    """How the router joins the bridge. Isolated guests reach it: it keeps them apart itself."""
    return LegPlan(
        network=site.network,
        port=ROUTER,
        ifname=leg_ifname(site.network),
        bridge=layout.bridge,
        mac=router_mac(site.network),
        mtu=site.config.mtu,
    )


def engine_uplink(site: Site) -> EngineUplink:
    """What the configuration names, as the host has it now. Raises InterfaceNotFound, AddressInUse, ConfigError."""
    config, links = site.config, site.surroundings
    assert config.uplink is not None and config.external_ip is not None
    ifname, is_tap = uplink_of(config.uplink)
    if is_tap and not links.is_tap(ifname):
        raise InterfaceNotFound(
            f"no TAP {ifname}", fix=f"ip tuntap add dev {ifname} mode tap", interface=ifname
        )
    mtu = min(links.mtu(ifname), MTU_MAX)
    external = IPv4Interface(_external(links, ifname, "external_ip", config.external_ip))
    external6 = None
    if config.external_ip6 is not None and mtu >= MTU_IPV6_MIN:
        external6 = IPv6Interface(_external(links, ifname, "external_ip6", config.external_ip6))
    next_hop = config.next_hop or _next_hop(links, ifname, external, is_tap=is_tap)
    next_hop6 = None
    if external6 is not None:
        next_hop6 = config.next_hop6 or _next_hop(links, ifname, external6, is_tap=is_tap)
    next_hops = tuple(ip_address(hop) for hop in (next_hop, next_hop6) if hop)
    return EngineUplink(
        ifname,
        is_tap,
        external,
        IPv4Address(next_hop) if next_hop else None,
        external6,
        IPv6Address(next_hop6) if next_hop6 else None,
        mtu,
        by_kernel=tuple(hop for hop in next_hops if not is_tap and _is_resolved(links, ifname, hop)),
    )


def _external(links: Links, ifname: str, field: str, text: str) -> str:
    """The address that *text* is, with its prefix length. Raises AddressInUse, ConfigError."""
    external = ip_interface(text)
    family = AF_INET if external.version == 4 else AF_INET6
    if str(external.ip) in links.host_addresses():
        raise AddressInUse(
            f"{field} {external.ip} is this host's own: guests need one that nobody has",
            address=str(external.ip),
            holder="host",
        )
    if "/" in text:
        return text
    on_link = next((one for one in links.addresses(ifname, family) if external.ip in one.network), None)
    if on_link is None:
        raise ConfigError(
            f"{field} {external.ip} is in no subnet of {ifname}",
            fix=f"give its prefix length, as in {external.ip}/{24 if external.version == 4 else 64}",
            field=field,
            value=str(external.ip),
        )
    return f"{external.ip}/{on_link.network.prefixlen}"


def _is_resolved(links: Links, ifname: str, hop: IPv4Address | IPv6Address) -> bool:
    """Whether the kernel has an address on the link that it can ask for *hop* with."""
    if hop.version == 6:
        return bool(links.addresses(ifname, AF_INET6))
    return any(hop in one.network for one in links.addresses(ifname))


def _next_hop(
    links: Links, ifname: str, external: IPv4Interface | IPv6Interface, *, is_tap: bool
) -> IPv4Address | IPv6Address | None:
    """As the host goes by that interface; behind a TAP the host itself is, if it has an address there."""
    family = AF_INET if external.version == 4 else AF_INET6
    gateway = links.default_gateway(ifname, family)
    if gateway is None and is_tap:
        on_link = (one.ip for one in links.addresses(ifname, family) if one.ip in external.network)
        gateway = next(on_link, None)
    return gateway
