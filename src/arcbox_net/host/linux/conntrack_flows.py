"""What guests behind masquerade are connected to, read from conntrack. Changes nothing."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from arcbox_net.host.linux.conntrack import CT_GET, FAMILIES, parse_entry
from arcbox_net.host.linux.netlink import attrs
from arcbox_net.host.linux.nfnetlink import NfnetlinkSocket

FLOWS_MAX: Final = 16_384
_STATUS, _PROTOINFO, _COUNTERS_ORIGINAL, _COUNTERS_REPLY = 3, 4, 9, 10
_PROTOINFO_TCP, _TCP_STATE, _COUNTERS_BYTES = 1, 1, 2
_SEEN_REPLY = 1 << 1
_TCP_STATES: Final = (
    "none",
    "connecting",
    "connecting",
    "open",
    "closing",
    "closing",
    "closing",
    "closed",
    "closed",
    "connecting",
)
_PROTOCOLS: Final = {
    socket.IPPROTO_TCP: "tcp",
    socket.IPPROTO_UDP: "udp",
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_ICMPV6: "icmpv6",
}
_Network = IPv4Network | IPv6Network


def guest_flows(subnets: Collection[_Network]) -> list[dict[str, Any]]:
    """Flows from *subnets* to elsewhere, FLOWS_MAX at most; bytes where the kernel counts them. Raises OSError.

    Reads the network namespace of the calling thread.
    """
    found: list[dict[str, Any]] = []
    with NfnetlinkSocket() as netlink:
        for subnet in subnets:
            for payload in netlink.dump(CT_GET, FAMILIES[subnet.version], b""):
                found += flow_of(payload, subnet)
                if len(found) >= FLOWS_MAX:
                    return found
    return found


def flow_of(payload: bytes, subnet: _Network) -> Iterator[dict[str, Any]]:
    """The flow in *payload* (from the netfilter header on), if it is one from *subnet* to elsewhere."""
    entry = parse_entry(payload, subnet.version)
    if entry is None:
        return
    address = ipaddress.IPv4Address if subnet.version == 4 else ipaddress.IPv6Address
    guest, peer = address(entry.original.src), address(entry.original.dst)
    if guest not in subnet or peer in subnet or peer.is_multicast:
        return
    parts = attrs(payload, 4)
    yield {
        "protocol": _PROTOCOLS.get(entry.original.protocol, str(entry.original.protocol)),
        "guest": str(guest),
        "guest_port": entry.original.src_port or None,
        "peer": str(peer),
        "peer_port": entry.original.dst_port or None,
        "state": _state(parts),
        "bytes_out": _bytes(parts.get(_COUNTERS_ORIGINAL)),
        "bytes_in": _bytes(parts.get(_COUNTERS_REPLY)),
    }


def _state(parts: dict[int, bytes]) -> str:
    tcp = _part(_part(parts.get(_PROTOINFO), _PROTOINFO_TCP), _TCP_STATE)
    if tcp:
        return _TCP_STATES[tcp[0]] if tcp[0] < len(_TCP_STATES) else "none"
    status = int.from_bytes(parts.get(_STATUS, b""), "big")
    return "open" if status & _SEEN_REPLY else "unanswered"


def _bytes(counters: bytes | None) -> int | None:
    value = _part(counters, _COUNTERS_BYTES)
    return int.from_bytes(value, "big") if len(value) == 8 else None


def _part(value: bytes | None, kind: int) -> bytes:
    if value is None:
        return b""
    return attrs(value).get(kind, b"")
