"""A NAT network: guests behind a gateway address, and one of three ways out.

masquerade   guest ── TAP/veth ── bridge (gateway address) ── kernel forwarding ── masquerade ── uplink
relay        guest ── TAP/veth ── bridge (gateway address) ── TUN, tproxy ── relay threads ── sockets of the host
             └───────────── a private network namespace ─────────────┘
engine       guest ── socket ── switch ── NAT engine ── packet socket on an interface of the host
                                  └── uplink ─┐ └── leg ─┐
             guest ── TAP/veth ── bridge (gateway address: DHCP, DNS, the host)
"""

from __future__ import annotations

from arcbox_net.config import Egress
from arcbox_net.errors import PermissionDenied, Unsupported
from arcbox_net.host.linux import sysctl
from arcbox_net.recipes.engine import check_external, check_uplink
from arcbox_net.recipes.gateway import apply_gateway, choose_gateway, remove_gateway
from arcbox_net.recipes.site import Contents, Layout, Site


class NatRecipe:
    """Egress `masquerade` and `engine` are in the host's namespace, `relay` in a private one."""

    def choose(self, site: Site, previous: Layout | None) -> Layout:
        egress = choose_egress(site.config.egress, has_power=not site.is_private)
        if egress is Egress.ENGINE:
            check_uplink(site)  # or else the first guest would be told what is wrong with it
        layout = choose_gateway(site, previous, egress=egress.value, routed=True)
        check_external(site.config, layout)
        if site.config.external_ip6 is not None and layout.address6 is None:
            raise Unsupported(
                "external_ip6 is for guests with IPv6, which this host has switched off",
                fix="sysctl -w net.ipv6.conf.all.disable_ipv6=0, or leave external_ip6 out",
                feature="IPv6",
            )
        return layout

    def apply(self, site: Site, layout: Layout, contents: Contents) -> None:
        apply_gateway(site, layout, contents, masquerade=layout.egress == Egress.MASQUERADE.value)
        if contents.relay is not None:
            site.links.apply_policy(contents.relay)
            return
        if layout.egress == Egress.ENGINE.value:  # the kernel forwards nothing, as for host-only
            return
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
            if not layout.is_private:
                sysctl.restore_forwarding(site.network, site.record_dir, live=list(site.live_networks()))
        finally:
            remove_gateway(site, layout)


def choose_egress(asked: Egress, *, has_power: bool) -> Egress:
    """How guests' packets leave. *has_power*: this process may change the host's network."""
    if asked is Egress.NONE:
        raise Unsupported(
            "a NAT network without egress is a host-only network",
            fix="use mode host-only",
            feature="egress none in mode nat",
        )
    if asked in (Egress.MASQUERADE, Egress.ENGINE) and not has_power:
        raise PermissionDenied(
            f"egress {asked.value} is part of the host's network, which needs root or CAP_NET_ADMIN",
            fix="leave egress at auto, which needs no privilege; or run it with sudo",
            operation=asked.value,
        )
    if asked is Egress.AUTO:
        return Egress.MASQUERADE if has_power else Egress.RELAY
    return asked
