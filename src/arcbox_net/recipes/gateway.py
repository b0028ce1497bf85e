"""A network behind a gateway address of ours: what NAT and host-only have in common."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from arcbox_net.addresses import bridge_mac, candidate_subnets, parse_subnet
from arcbox_net.config import AUTO, gateway_of
from arcbox_net.errors import SubnetConflict
from arcbox_net.host.plan import BridgePlan, FirewallPlan, bridge_ifname
from arcbox_net.recipes.site import Contents, Layout, Site

AUTO_SUBNETS_MAX = 256


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
    )


def apply_gateway(site: Site, layout: Layout, contents: Contents, *, masquerade: bool) -> None:
    """Firewall first, so that the bridge never carries an unfiltered frame."""
    site.firewall.apply(
        FirewallPlan(
            network=site.network,
            bridge=layout.bridge,
            subnet=layout.subnet,
            gateway=layout.gateway,
            masquerade=masquerade,
            isolated=site.config.isolated,
            dhcp=site.config.has_dhcp,
            dns=site.config.has_dns,
            ports=contents.ports,
            dnats=contents.dnats,
            redirects=contents.redirects,
        )
    )
    site.links.apply_bridge(
        BridgePlan(
            network=site.network,
            ifname=layout.bridge,
            mtu=site.config.mtu,
            mac=bridge_mac(site.network),
            gateway=layout.address,
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
        clashes = site.links.conflicts(subnet, ours)
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
        if not site.links.conflicts(subnet, ours):
            return subnet
    raise SubnetConflict(
        f"no free subnet like {first} within {AUTO_SUBNETS_MAX} tries",
        fix="name one with subnet=",
        subnet=str(first),
        route="",
        interface="",
    )


def is_guest_address(layout: Layout, address: IPv4Address) -> bool:
    """Whether *address* can be a guest's: inside the subnet, and neither its ends nor the gateway."""
    subnet = layout.subnet
    if subnet is None:
        return True
    ends = (subnet.network_address, subnet.broadcast_address, layout.gateway)
    return address in subnet and address not in ends
