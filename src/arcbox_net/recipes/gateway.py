"""A network behind a gateway address of ours: what NAT and host-only have in common."""

from __future__ import annotations

import itertools
import os
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from arcbox_net.addresses import (
    GLOBAL_ID_BYTES,
    bridge_mac,
    candidate_subnets,
    parse_subnet,
    parse_subnet6,
    ula_subnet,
)
from arcbox_net.config import AUTO, Egress, HostAccess, gateway_of
from arcbox_net.errors import SubnetConflict, Unsupported
from arcbox_net.host.linux import sysctl
from arcbox_net.host.plan import BridgePlan, FirewallPlan, bridge_ifname
from arcbox_net.recipes.engine import router_mac
from arcbox_net.recipes.site import Contents, Layout, Site
from arcbox_net.services.dns.settings import PORT as DNS_PORT

AUTO_SUBNETS_MAX = 256
AUTO_SUBNETS6_MAX = 8  # of 2^40 random ones: a second try is already unheard of


def choose_gateway(site: Site, previous: Layout | None, *, egress: str, routed: bool) -> Layout:
    """Pick subnet and gateway: those of last time if still free, else as configured. Raises SubnetConflict."""
    subnet = _choose_subnet(site, previous)
    gateway = gateway_of(site.config, subnet)
    return Layout(
        mode=site.config.mode.value,
        egress=egress,
        bridge=bridge_ifname(site.network),
        address=IPv4Interface((gateway, subnet.prefixlen)),
        router=gateway if routed else None,
        owns_bridge=True,
        address6=_choose_address6(site, previous),
        is_private=site.is_private,
    )


def apply_gateway(site: Site, layout: Layout, contents: Contents, *, masquerade: bool) -> None:
    """Firewall first, so that the bridge never carries an unfiltered frame."""
    site.firewall.apply(
        FirewallPlan(
            network=site.network,
            bridge=layout.bridge,
            subnet=layout.subnet,
            gateway=layout.gateway,
            subnet6=layout.subnet6,
            gateway6=layout.gateway6,
            masquerade=masquerade,
            router_mac=router_mac(site.network) if layout.egress == Egress.ENGINE.value else None,
            routes_ipv6=site.config.external_ip6 is not None,
            relay=contents.relay,
            isolated=site.config.isolated,
            dhcp=site.config.has_dhcp,
            dns=site.config.has_dns,
            ports=contents.ports,
            dnats=contents.dnats,
            redirects=contents.redirects,
            redirects_dns=HostAccess("udp", DNS_PORT) in site.config.host_access,
        )
    )
    site.links.apply_bridge(
        BridgePlan(
            network=site.network,
            ifname=layout.bridge,
            mtu=site.config.mtu,
            mac=bridge_mac(site.network),
            gateway=layout.address,
            gateway6=layout.address6,
        )
    )


def remove_gateway(site: Site, layout: Layout) -> None:
    """The bridge first; the ruleset goes even if a link of that name turns out not to be ours."""
    try:
        site.links.remove(layout.bridge)
    finally:
        site.firewall.remove()


def _choose_subnet(site: Site, previous: Layout | None) -> IPv4Network:
    ours = {bridge_ifname(site.network)}
    if site.config.subnet != AUTO:
        subnet = parse_subnet(site.config.subnet)
        clashes = site.surroundings.conflicts(subnet, ours)
        if clashes:
            raise SubnetConflict(
                f"subnet {subnet} is in use on this host: {clashes[0]}",
                fix='choose another subnet, or subnet = "auto" to take the next free one',
                subnet=str(subnet),
                route=str(clashes[0]),
                interface=clashes[0].ifname,
            )
        return subnet
    first = site.config.default_subnet()
    wanted = []
    if previous and previous.subnet and previous.mode == site.config.mode.value:
        wanted.append(previous.subnet)
    for subnet in [*wanted, *itertools.islice(candidate_subnets(first), AUTO_SUBNETS_MAX)]:
        if not site.surroundings.conflicts(subnet, ours):
            return subnet
    raise SubnetConflict(
        f"no free subnet like {first} within {AUTO_SUBNETS_MAX} tries",
        fix="name one with subnet=",
        subnet=str(first),
        route="",
        interface="",
    )


def _choose_address6(site: Site, previous: Layout | None) -> IPv6Interface | None:
    """The gateway's IPv6 address: of last time, as configured, or of a random subnet. Raises SubnetConflict."""
    if not site.config.has_ipv6:
        return None
    if not sysctl.has_ipv6():
        if site.config.subnet6 == AUTO:
            return None
        raise Unsupported(
            "this host has IPv6 switched off",
            fix='sysctl -w net.ipv6.conf.all.disable_ipv6=0, or subnet6 = "none"',
            feature="IPv6",
        )
    subnet = _choose_subnet6(site, previous)
    return IPv6Interface((subnet.network_address + 1, subnet.prefixlen))


def _choose_subnet6(site: Site, previous: Layout | None) -> IPv6Network:
    ours = {bridge_ifname(site.network)}
    wanted = []
    if site.config.subnet6 != AUTO:
        wanted.append(parse_subnet6(site.config.subnet6))
    else:
        if previous and previous.subnet6:
            wanted.append(previous.subnet6)
        wanted += [ula_subnet(os.urandom(GLOBAL_ID_BYTES)) for _ in range(AUTO_SUBNETS6_MAX)]
    clashes = []
    for subnet in wanted:
        clashes = site.surroundings.conflicts(subnet, ours)
        if not clashes:
            return subnet
    raise SubnetConflict(
        f"subnet6 {subnet} is in use on this host: {clashes[0]}",
        fix='choose another subnet6, or "auto" for one that nobody else has',
        subnet=str(subnet),
        route=str(clashes[0]),
        interface=clashes[0].ifname,
    )
