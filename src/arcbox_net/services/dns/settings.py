"""What the DNS forwarder is told: one frozen value, and the limits that are not configurable."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path

Endpoint = tuple[str, int]

PORT = 53
IPV6_BYTES = 16  # of a client's address
UDP_BYTES_MAX = 1232  # what fits every path without fragments (DNS flag day 2020)
PLAIN_UDP_BYTES_MAX = 512  # RFC 1035, a client without EDNS
TCP_BYTES_MAX = 65535
CACHE_BYTES_MAX = 8 << 20
CACHE_BODY_BYTES_MAX = 16384
QUERIES_PER_S = 2000
IN_FLIGHT_MAX = 1024
IN_FLIGHT_PER_GUEST_MAX = 256
IN_FLIGHT_IPV6_MAX = 768  # of all: a guest can ask from many IPv6 addresses, but then not for everybody
WAITERS_MAX = 64
HEDGE_S = 0.4
UDP_TIMEOUT_S = 1.2
TCP_TIMEOUT_S = 2.4
TOTAL_TIMEOUT_S = 4.8  # stub resolvers give up after 5 s: they should see SERVFAIL before
ATTEMPTS_MAX = 8
SPOOFS_MAX = 64
DOWN_S = 30.0
LOOPED_S = 300.0
TCP_IDLE_S = 10.0
TCP_CONNECTIONS_PER_GUEST_MAX = 16
TCP_PIPELINE_MAX = 64


@dataclasses.dataclass(frozen=True, slots=True)
class DnsSettings:
    """One network's forwarder.

    `listen`: our addresses. `upstreams` empty: those of `resolv_conf`, followed live. `domain_upstreams`
    sends a suffix elsewhere. `recursion` False: only local names are answered and nothing leaves.
    `own_addresses`: further addresses of this host that lead back to us. `queries_per_s` is per client
    address, 0 for no limit.
    """

    listen: tuple[Endpoint, ...]
    domain: str
    subnet: IPv4Network | None = None
    upstreams: tuple[Endpoint, ...] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")
    domain_upstreams: Mapping[str, tuple[Endpoint, ...]] = dataclasses.field(default_factory=dict)
    recursion: bool = True
    rebind_protection: bool = False
    rebind_allow: tuple[str, ...] = ()
    cache_entries_max: int = 8192
    cache_bytes_max: int = CACHE_BYTES_MAX
    serve_stale: bool = False
    queries_per_s: int = QUERIES_PER_S
    own_addresses: frozenset[str] = frozenset()
