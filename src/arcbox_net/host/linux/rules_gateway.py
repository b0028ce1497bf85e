"""What guests may ask of the gateway: the part of the input chain that every network behind a gateway has."""

from __future__ import annotations

from arcbox_net.host.linux.nft_text import any_of
from arcbox_net.host.plan import GATEWAY_LINK_LOCAL, FirewallPlan


def gateway_addresses6(plan: FirewallPlan) -> str:
    """The IPv6 addresses that the gateway has for guests, as nft compares with them."""
    return any_of(plan.gateway6, GATEWAY_LINK_LOCAL.ip)


def service_rules(plan: FirewallPlan, accept: str) -> list[str]:
    """DHCP, DNS, echo and IPv6's neighbour discovery on the gateway's addresses; each match ends in *accept*."""
    allowed = []
    if plan.dhcp:
        # A client without an address has no connection: the two port numbers decide.
        destinations = any_of("255.255.255.255", plan.gateway)
        allowed.append(f"ip daddr {destinations} udp sport 68 udp dport 67 {accept}")
    if plan.gateway is not None:
        if plan.dns:
            allowed.append(f"ip daddr {plan.gateway} meta l4proto {{ tcp, udp }} th dport 53 {accept}")
        allowed.append(f"ip daddr {plan.gateway} icmp type echo-request {accept}")
    if plan.gateway6 is not None:
        to_gateway = f"ip6 daddr {gateway_addresses6(plan)}"
        if plan.dns:
            allowed.append(f"{to_gateway} meta l4proto {{ tcp, udp }} th dport 53 {accept}")
        allowed.append(f"{to_gateway} icmpv6 type echo-request {accept}")
        allowed.append(
            "icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } "
            f"ip6 hoplimit 255 {accept}"
        )
        # Nobody routes multicast here; guests report their groups all the same.
        allowed.append(
            f"icmpv6 type {{ mld-listener-report, mld-listener-done, mld2-listener-report }} {accept}"
        )
    return allowed
