"""Plans for kernel tests: a bridge, TAPs and veth pairs with all but the interesting field filled in."""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import Any

from arcbox_net.addresses import stable_mac
from arcbox_net.host.plan import BridgePlan, TapPlan, VethPlan, bridge_ifname, port_ifname

GATEWAY = IPv4Interface("192.168.64.1/24")


def bridge_plan(network: str = "t1", **fields: Any) -> BridgePlan:
    defaults: dict[str, Any] = {"mtu": 1500, "mac": stable_mac(network, "bridge"), "gateway": GATEWAY}
    return BridgePlan(network=network, ifname=bridge_ifname(network), **{**defaults, **fields})


def tap_plan(network: str = "t1", index: int = 1, **fields: Any) -> TapPlan:
    return TapPlan(**{**_common(network, index), **fields})


def veth_plan(network: str = "t1", index: int = 1, **fields: Any) -> VethPlan:
    return VethPlan(**{**_common(network, index), **fields})


def _common(network: str, index: int) -> dict[str, Any]:
    return {
        "network": network,
        "port": f"p{index}",
        "ifname": port_ifname(network, index),
        "bridge": bridge_ifname(network),
        "mac": stable_mac(network, str(index)),
        "mtu": 1500,
    }
