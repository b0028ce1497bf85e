"""A bridge network: guests on an existing bridge, or on a bridge of ours with a named NIC under it.

The LAN gives addresses and names. Our DHCP and DNS run only when the configuration turns them on; they then
answer on the address that the bridge has in `subnet`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from typing import Any

from arcbox_net.addresses import bridge_mac, parse_subnet
from arcbox_net.config import AUTO, Egress
from arcbox_net.errors import ConfigError
from arcbox_net.host.plan import BridgePlan, FirewallPlan, bridge_ifname
from arcbox_net.recipes.site import Contents, Layout, Site

NIC_JOURNAL = "nic"


class BridgeRecipe:
    """Frames pass at layer 2; only the anti-spoofing half of the ruleset applies."""

    def choose(self, site: Site, previous: Layout | None) -> Layout:
        config = site.config
        if config.egress not in (Egress.AUTO, Egress.NONE):
            raise ConfigError(
                f"mode bridge has no egress {config.egress.value}: the LAN is the way out",
                fix="leave egress at auto",
                field="egress",
                value=config.egress.value,
            )
        if config.host_access or config.forwards:
            raise ConfigError(
                "mode bridge has no forwards and no host_access: guests are on the LAN themselves",
                fix="reach the guest at its own address",
                field="forwards",
                value=", ".join(map(str, (*config.forwards, *config.host_access))),
            )
        bridge = config.bridge or bridge_ifname(site.network)
        if config.bridge:
            site.links.find_bridge(config.bridge)
        address = None
        if config.has_dhcp or config.has_dns:
            address = _service_address(site, config.bridge or str(config.nic), bridge)
        return Layout(
            mode=config.mode.value,
            egress=Egress.NONE.value,
            bridge=bridge,
            address=address,
            router=IPv4Address(config.gateway) if config.gateway and address else None,
            owns_bridge=config.bridge is None,
            nic=config.nic,
        )

    def apply(self, site: Site, layout: Layout, contents: Contents) -> None:
        site.firewall.apply(
            FirewallPlan(
                network=site.network,
                bridge=layout.bridge,
                isolated=site.config.isolated,
                dhcp=site.config.has_dhcp,
                dns=site.config.has_dns,
                ports=contents.ports,
            )
        )
        if not layout.owns_bridge:
            site.links.find_bridge(layout.bridge)
            return
        site.links.apply_bridge(
            BridgePlan(
                network=site.network,
                ifname=layout.bridge,
                mtu=site.config.mtu,
                mac=bridge_mac(site.network),
            )
        )
        if layout.nic:
            self._adopt_nic(site, layout.nic, layout.bridge)

    def _adopt_nic(self, site: Site, nic: str, bridge: str) -> None:
        """Put the NIC under the bridge; after a crash or a repair, finish what the journal says was begun."""

        def note(saved: dict[str, Any]) -> None:
            site.journal.put("journal", NIC_JOURNAL, saved)

        begun = site.journal.items("journal").get(NIC_JOURNAL)
        if not begun or not site.links.readopt_nic(begun):
            site.links.adopt_nic(nic, bridge, note)

    def remove(self, site: Site, layout: Layout) -> None:
        saved = site.journal.items("journal").get(NIC_JOURNAL)
        if saved:
            site.links.return_nic(saved)
            site.journal.delete("journal", NIC_JOURNAL)
        if layout.owns_bridge:
            site.links.remove(layout.bridge)
        site.firewall.remove()


def _service_address(site: Site, source: str, bridge: str) -> IPv4Interface:
    """The IPv4 address on *source* (or, after a restart, already on *bridge*) inside the configured subnet."""
    if site.config.subnet == AUTO:
        raise ConfigError(
            "DHCP or DNS in mode bridge needs an explicit subnet",
            fix="set subnet to the LAN's",
            field="subnet",
            value=AUTO,
        )
    subnet = parse_subnet(site.config.subnet)
    for ifname in (source, bridge):
        for address in site.links.addresses(ifname):
            if address.ip in subnet:
                return IPv4Interface((address.ip, subnet.prefixlen))
    raise ConfigError(
        f"{source} has no address in {subnet} for DHCP and DNS to answer on",
        fix=f"ip address add ADDRESS/{subnet.prefixlen} dev {source}",
        field="subnet",
        value=str(subnet),
    )
