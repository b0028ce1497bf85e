"""The two sides of the NAT engine: its uplink, an interface of the host, and its leg on the network's bridge."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING

from arcbox_net.addresses import stable_mac
from arcbox_net.config import MTU_IPV6_MIN, MTU_MAX, NetConfig
from arcbox_net.config_engine import TAP, uplink_of
from arcbox_net.errors import AddressInUse, ConfigError, InterfaceNotFound
from arcbox_net.host.plan import ROUTER, LegPlan, leg_ifname
from arcbox_net.recipes.address_probe import find_holder
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


def check_uplink(site: Site) -> None:
    """Before the network starts: nobody on the link has the external address. Raises what `engine_uplink` does."""
    uplink = engine_uplink(site)
    holder = None if uplink.is_tap else find_holder(uplink.ifname, uplink.external.ip)
    if holder is not None:
        raise AddressInUse(
            f"external_ip {uplink.external.ip}: {holder} on {uplink.ifname} has that address",
            fix="choose one that nobody has",
            address=str(uplink.external.ip),
            holder=holder,
        )


def check_external(config: NetConfig, layout: Layout) -> None:
    """The external addresses are none of the guests' own. Raises ConfigError."""
    for field, inside in (("external_ip", layout.subnet), ("external_ip6", layout.subnet6)):
        text = getattr(config, field)
        if text is not None and inside is not None and ip_interface(text).ip in inside:
            raise ConfigError(
                f"{field} {text} is in the guests' own subnet {inside}",
                fix="choose another subnet",
                field=field,
                value=text,
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
    if not links.is_ethernet(ifname):
        raise ConfigError(
            f"uplink {ifname} is no Ethernet interface, and the engine has a MAC address of its own there",
            fix=f"name another one, or a TAP: {TAP}NAME",
            field="uplink",
            value=config.uplink,
        )
    external = IPv4Interface(_external(links, ifname, "external_ip", config.external_ip))
    external6 = None
    if config.external_ip6 is not None and mtu >= MTU_IPV6_MIN:
        external6 = IPv6Interface(_external(links, ifname, "external_ip6", config.external_ip6))
    next_hop = config.next_hop or _next_hop(links, ifname, external, is_tap=is_tap)
    next_hop6 = None
    if external6 is not None:
        next_hop6 = config.next_hop6 or _next_hop(links, ifname, external6, is_tap=is_tap)
    _check_next_hops(config, {external.ip} | ({external6.ip} if external6 else set()))
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
        return _usable(field, external)
    on_link = next((one for one in links.addresses(ifname, family) if external.ip in one.network), None)
    if on_link is None:
        raise ConfigError(
            f"{field} {external.ip} is in no subnet of {ifname}",
            fix=f"give its prefix length, as in {external.ip}/{24 if external.version == 4 else 64}",
            field=field,
            value=str(external.ip),
        )
    return _usable(field, ip_interface(f"{external.ip}/{on_link.network.prefixlen}"))


def _usable(field: str, external: IPv4Interface | IPv6Interface) -> str:
    """It as text. Raises ConfigError if it is the network's own or its broadcast address."""
    network = external.network
    ends = (network.network_address, network.broadcast_address)
    if external.version == 4 and network.num_addresses > 2 and external.ip in ends:
        raise ConfigError(
            f"{field} {external.ip} is no host's address in {network}", field=field, value=str(external.ip)
        )
    return str(external)


def _check_next_hops(config: NetConfig, external: set[IPv4Address | IPv6Address]) -> None:
    for field in ("next_hop", "next_hop6"):
        hop = getattr(config, field)
        if hop is not None and ip_address(hop) in external:
            raise ConfigError(
                f"{field} {hop} is the engine's own address",
                fix="name the router of the uplink's network",
                field=field,
                value=hop,
            )


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
