"""A host-only network: guests, the gateway and its services; nothing is forwarded out and no query leaves."""

from __future__ import annotations

from arcbox_net.config import Egress
from arcbox_net.errors import ConfigError
from arcbox_net.recipes.gateway import apply_gateway, choose_gateway, remove_gateway
from arcbox_net.recipes.site import Contents, Layout, Site


class HostOnlyRecipe:
    """No default route is handed out, and the ruleset drops whatever a guest sends beyond the subnet."""

    def choose(self, site: Site, previous: Layout | None) -> Layout:
        if site.config.egress not in (Egress.AUTO, Egress.NONE):
            raise ConfigError(
                f"a host-only network has no egress {site.config.egress.value}",
                fix="use mode nat for a way out",
                field="egress",
                value=site.config.egress.value,
            )
        return choose_gateway(site, previous, egress=Egress.NONE.value, routed=False)

    def apply(self, site: Site, layout: Layout, contents: Contents) -> None:
        apply_gateway(site, layout, contents, masquerade=False)

    def remove(self, site: Site, layout: Layout) -> None:
        remove_gateway(site, layout)
