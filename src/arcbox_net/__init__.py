"""Networks for virtual machines and processes. Public names, loaded when they are used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcbox_net.attachments import NetnsAttachment, TapAttachment
    from arcbox_net.config import Egress, HostAccess, NetConfig, NetworkMode
    from arcbox_net.config_dhcp import DhcpConfig, Reservation
    from arcbox_net.config_dns import DnsConfig
    from arcbox_net.config_ports import PortConfig
    from arcbox_net.dataplane.engine import NatEngine
    from arcbox_net.dataplane.nat_config import NatEngineConfig
    from arcbox_net.dataplane.nat_views import Emission, NatFlow, NatForward, NatMapping
    from arcbox_net.dataplane.verdict import Direction, Verdict
    from arcbox_net.dataplane.worker import Worker
    from arcbox_net.dataplane.worker_group import WorkerGroup
    from arcbox_net.errors import ArcboxNetError
    from arcbox_net.manager import NetworkManager
    from arcbox_net.memory.batch import FrameBatch
    from arcbox_net.memory.pool import PacketPool
    from arcbox_net.memory.ring import LockFreeRing
    from arcbox_net.rules import ForwardRule, parse_forward
    from arcbox_net.wire.checksums import (
        checksum,
        checksum_batch,
        incremental_checksum_update,
        incremental_checksum_update_batch,
        pseudo_header_checksum,
    )

__version__ = "0.1.0"
__all__ = [
    "ArcboxNetError",
    "DhcpConfig",
    "Direction",
    "DnsConfig",
    "Egress",
    "Emission",
    "ForwardRule",
    "FrameBatch",
    "HostAccess",
    "LockFreeRing",
    "NatEngine",
    "NatEngineConfig",
    "NatFlow",
    "NatForward",
    "NatMapping",
    "NetConfig",
    "NetnsAttachment",
    "NetworkManager",
    "NetworkMode",
    "PacketPool",
    "PortConfig",
    "Reservation",
    "TapAttachment",
    "Verdict",
    "Worker",
    "WorkerGroup",
    "checksum",
    "checksum_batch",
    "incremental_checksum_update",
    "incremental_checksum_update_batch",
    "parse_forward",
    "pseudo_header_checksum",
]

_HOME = {
    "ArcboxNetError": "errors",
    "Direction": "dataplane.verdict",
    "Emission": "dataplane.nat_views",
    "NatEngine": "dataplane.engine",
    "NatEngineConfig": "dataplane.nat_config",
    "NatFlow": "dataplane.nat_views",
    "NatForward": "dataplane.nat_views",
    "NatMapping": "dataplane.nat_views",
    "DhcpConfig": "config_dhcp",
    "DnsConfig": "config_dns",
    "PortConfig": "config_ports",
    "Reservation": "config_dhcp",
    "Verdict": "dataplane.verdict",
    "Worker": "dataplane.worker",
    "WorkerGroup": "dataplane.worker_group",
    "checksum": "wire.checksums",
    "checksum_batch": "wire.checksums",
    "incremental_checksum_update": "wire.checksums",
    "incremental_checksum_update_batch": "wire.checksums",
    "pseudo_header_checksum": "wire.checksums",
    "ForwardRule": "rules",
    "parse_forward": "rules",
    "NetworkManager": "manager",
    "NetnsAttachment": "attachments",
    "TapAttachment": "attachments",
    "FrameBatch": "memory.batch",
    "LockFreeRing": "memory.ring",
    "PacketPool": "memory.pool",
}


def __getattr__(name: str) -> Any:
    # Every module of the package runs this file first: `arcbox-net ls` must not pay for the configuration.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"arcbox_net.{_HOME.get(name, 'config')}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
