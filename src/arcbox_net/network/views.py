"""How inner values look in the API's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcbox_net.network.messages import ForwardInfo, PortInfo

if TYPE_CHECKING:
    from arcbox_net.network.ports import Port
    from arcbox_net.recipes.port_forward import Forward


def forward_info(forward: Forward) -> ForwardInfo:
    rule = forward.rule
    address, reason = forward.client_address
    as_client, as_gateway = forward.dials()
    return ForwardInfo(
        rule=str(rule),
        protocol=rule.protocol,
        host_ip=rule.host_ip,
        host_port=rule.host_port,
        host_port_end=rule.host_port_end,
        guest=rule.guest,
        guest_ip=str(forward.guest_ip) if forward.guest_ip else None,
        guest_port=rule.guest_port,
        guest_port_end=rule.guest_port_end,
        path="nft" if forward.in_kernel else "splice",
        state="active" if forward.guest_ip else "pending",
        client_address_preserved=reason is None,
        client_address=address,
        client_address_reason=reason,
        dials_as_client=as_client,
        dials_as_gateway=as_gateway,
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
