"""Networks for virtual machines and processes. Public names; importing this package stays cheap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arcbox_net.config import DhcpConfig, DnsConfig, Egress, HostAccess, NetConfig, NetworkMode, Reservation
from arcbox_net.errors import ArcboxNetError
from arcbox_net.rules import ForwardRule, parse_forward

if TYPE_CHECKING:
    from arcbox_net.manager import NetworkManager, NetnsAttachment, TapAttachment

__version__ = "0.1.0"
__all__ = [
    "ArcboxNetError",
    "DhcpConfig",
    "DnsConfig",
    "Egress",
    "ForwardRule",
    "HostAccess",
    "NetConfig",
    "NetnsAttachment",
    "NetworkManager",
    "NetworkMode",
    "Reservation",
    "TapAttachment",
    "parse_forward",
]


def __getattr__(name: str) -> Any:
    # The manager pulls in msgspec and http.client; `from arcbox_net import NetConfig` need not pay for them.
    if name in ("NetworkManager", "TapAttachment", "NetnsAttachment"):
        from arcbox_net import manager

        return getattr(manager, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
