"""A NAT engine for IPv6, and who talks through it."""

from __future__ import annotations

from typing import Any

from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig

GUEST, OTHER, GATEWAY = "fd00:64::9", "fd00:64::a", "fd00:64::1"
EXTERNAL, SECOND = "2001:db8:1::1", "2001:db8:1::2"
REMOTE, ELSEWHERE = "2001:db8:ff::7", "2001:db8:ee::8"


def engine(**fields: Any) -> NatEngine:
    """An engine over bare packets; *fields* are `NatEngineConfig`'s."""
    told: dict[str, Any] = {
        "external_ip": "203.0.113.1",
        "external_ip6": EXTERNAL,
        "inside6": "fd00:64::/64",
        "l3_offset": 0,
        "conntrack_size": 64,
    }
    return NatEngine(NatEngineConfig(**(told | fields)))
