"""A NAT network: guests behind a gateway address, masqueraded by the kernel on their way out.

guest ── TAP/veth ── bridge (gateway address) ── kernel forwarding ── masquerade ── uplink
"""

from __future__ import annotations

import os

from arcbox_net.config import Egress
from arcbox_net.errors import PermissionDenied, Unsupported
from arcbox_net.host.linux import sysctl
from arcbox_net.recipes.gateway import apply_gateway, choose_gateway, remove_gateway
from arcbox_net.recipes.site import Contents, Layout, Site


class NatRecipe:
    """Egress `masquerade`: bridge in the host's namespace, one nftables ruleset, kernel forwarding."""

    def choose(self, site: Site, previous: Layout | None) -> Layout:
        return choose_gateway(site, previous, egress=_egress(site.config.egress), routed=True)

    def apply(self, site: Site, layout: Layout, contents: Contents) -> None:
        apply_gateway(site, layout, contents, masquerade=True)
        # Replies arrive on the uplink, whichever it is at that moment, so forwarding is on for all of them.
        sysctl.enable_forwarding(
            site.network,
            [layout.bridge],
            site.record_dir,
            live=[*site.live_networks(), site.network],
            ipv6=layout.address6 is not None,
        )

    def remove(self, site: Site, layout: Layout) -> None:
        try:
            sysctl.restore_forwarding(site.network, site.record_dir, live=list(site.live_networks()))
        finally:
            remove_gateway(site, layout)


def _egress(asked: Egress) -> str:
    if asked in (Egress.RELAY, Egress.ENGINE):
        raise Unsupported(
            f"egress {asked.value} is not part of this version",
            fix="leave egress at auto, or use masquerade (as root)",
            feature=f"egress {asked.value}",
        )
    if asked is Egress.NONE:
        raise Unsupported(
            "a NAT network without egress is a host-only network",
            fix="use mode host-only",
            feature="egress none in mode nat",
        )
    if os.geteuid() != 0:
        raise PermissionDenied(
            "masquerade changes the host's network, which needs root or CAP_NET_ADMIN",
            fix="run it as root: sudo arcbox-net …",
            operation="masquerade",
        )
    return Egress.MASQUERADE.value
