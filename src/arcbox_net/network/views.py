"""How inner values look in the API's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcbox_net.network.messages import ForwardInfo, PortInfo

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from arcbox_net.network.guest_port import Port
    from arcbox_net.recipes.port_forward import Forward
    from arcbox_net.rules import ForwardRule


def forward_info(forward: Forward) -> ForwardInfo:
    address, reason = forward.client_address
    as_client, as_gateway = forward.dials()
    return rule_info(
        forward.rule,
        forward.guest_ip,
        path="nft" if forward.in_kernel else "splice",
        client_address_preserved=reason is None,
        client_address=address,
        client_address_reason=reason,
        dials_as_client=as_client,
        dials_as_gateway=as_gateway,
    )


def rule_info(rule: ForwardRule, guest_ip: IPv4Address | IPv6Address | None, **served: Any) -> ForwardInfo:
    """What was asked for, who its guest is now, and how it is served: more fields of ForwardInfo."""
    return ForwardInfo(
        rule=str(rule),
        protocol=rule.protocol,
        host_ip=rule.host_ip,
        host_port=rule.host_port,
        host_port_end=rule.host_port_end,
        guest=rule.guest,
        guest_ip=str(guest_ip) if guest_ip else None,
        guest_port=rule.guest_port,
        guest_port_end=rule.guest_port_end,
        state="active" if guest_ip else "pending",
        **served,
    )


def port_info(port: Port, state: str, **found: Any) -> PortInfo:
    """What a port was given, and what was found out of it: more fields of PortInfo."""
    return PortInfo(
        name=port.name,
        kind=port.kind,
        ifname=port.plan.ifname,
        mac=port.plan.mac,
        ip=str(port.ip) if port.ip else None,
        ip6=str(port.ip6) if port.ip6 else None,
        state=state,
        mtu=port.plan.mtu,
        **found,
    )
