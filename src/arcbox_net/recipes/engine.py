"""The two sides of the NAT engine: its uplink, an interface of the host, and its leg on the network's bridge."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Interface

from arcbox_net.addresses import stable_mac
from arcbox_net.config import MTU_MAX
from arcbox_net.errors import AddressInUse, ConfigError
from arcbox_net.host.plan import ROUTER, LegPlan, leg_ifname
from arcbox_net.recipes.site import Layout, Site


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUplink:
    """`external` is with the prefix that is on the link; `next_hop` None: nothing beyond it is reached."""

    ifname: str
    external: IPv4Interface
    next_hop: IPv4Address | None
    mtu: int


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
    assert site.config.uplink is not None and site.config.external_ip is not None
    links, ifname = site.surroundings, site.config.uplink
    external = IPv4Interface(site.config.external_ip)
    next_hop = links.default_gateway(ifname)
    if str(external.ip) in links.host_addresses():
        raise AddressInUse(
            f"external_ip {external.ip} is this host's own: guests need one that nobody has",
            address=str(external.ip),
            holder="host",
        )
    if "/" not in site.config.external_ip:
        on_link = next((one for one in links.addresses(ifname) if external.ip in one.network), None)
        if on_link is None:
            raise ConfigError(
                f"external_ip {external.ip} is in no subnet of {ifname}",
                fix=f"give its prefix length, as in {external.ip}/24",
                field="external_ip",
                value=str(external.ip),
            )
        external = IPv4Interface((external.ip, on_link.network.prefixlen))
    return EngineUplink(ifname, external, next_hop, min(links.mtu(ifname), MTU_MAX))
