"""Which upstream to ask next: order, health, loops, and the zone of a name. No I/O, `now` is an argument.

Upstreams are used in the order given, as resolv.conf promises. One that timed out is skipped for DOWN_S
while another is left; when all are down all are tried, the one that failed longest ago first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from arcbox_net.errors import ConfigError
from arcbox_net.services.dns.settings import DOWN_S, LOOPED_S, Endpoint
from arcbox_net.services.dns.wire import WireError, to_wire

UPSTREAMS_MAX = 8
LOOP_SUFFIX = b"\x0barcbox-loop\x04test\0"
NONCE_BYTES = 8
SILENCES_TO_DOWN = 2


@dataclasses.dataclass(slots=True, eq=False)
class Upstream:
    """A server we ask. `nonce` is the label of the probe that shows whether it leads back to us."""

    host: str
    port: int
    nonce: bytes = b""
    down_until: float = 0.0
    looped_until: float = 0.0
    probed_at: float | None = None
    failures: int = 0
    keeps_case: bool = True

    @property
    def endpoint(self) -> Endpoint:
        return (self.host, self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def probe_name(self) -> bytes:
        label = self.nonce.hex().encode()
        return bytes([len(label)]) + label + LOOP_SUFFIX


def plain_address(host: str) -> IPv4Address | IPv6Address:
    """The address in *host* without a scope, IPv4 when it is IPv4 in IPv6 clothes. Raises ValueError."""
    address = ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


class OwnAddresses:
    """The endpoints that lead back to us, whatever way they are written."""

    def __init__(self, listen: Iterable[Endpoint], others: Iterable[str]) -> None:
        self._listen = {(plain_address(host), port) for host, port in listen}
        ports = {port for _, port in self._listen}
        self._listen |= {(plain_address(host), port) for host in others for port in ports}

    def refusal(self, endpoint: Endpoint) -> str | None:
        """Why *endpoint* cannot be an upstream, None when it can."""
        try:
            address = plain_address(endpoint[0])
        except ValueError:
            return "is not an address"
        if (address, endpoint[1]) in self._listen:
            return "is this forwarder itself"
        if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
            return "is not the address of one host"
        return None

    def check(self, endpoints: Iterable[Endpoint], field: str) -> None:
        """Raises ConfigError for the first of the configured *endpoints* that cannot be an upstream."""
        for host, port in endpoints:
            if why := self.refusal((host, port)):
                raise ConfigError(
                    f"{field}: {host} port {port} {why}",
                    fix="name another DNS server",
                    field=field,
                    value=host,
                )


class UpstreamSet:
    """The servers of one zone."""

    def __init__(self, endpoints: Sequence[Endpoint], nonces: Iterable[bytes]) -> None:
        self.members = [
            Upstream(host, port, nonce)
            for (host, port), nonce in zip(dict.fromkeys(endpoints), nonces, strict=False)
        ][:UPSTREAMS_MAX]

    def order(self, now: float) -> list[Upstream]:
        """Whom to ask, best first."""
        members = self.members
        if len(members) == 1 and not members[0].looped_until:
            return members
        usable = [u for u in members if u.looped_until <= now]
        up = [u for u in usable if u.down_until <= now]
        return up + sorted((u for u in usable if u.down_until > now), key=lambda u: u.down_until)

    @staticmethod
    def answered(upstream: Upstream) -> None:
        upstream.failures = 0
        upstream.down_until = 0.0

    @staticmethod
    def silent(upstream: Upstream, now: float) -> None:
        """No answer in time: once may be a lost packet or a slow name, twice in a row is the server."""
        upstream.failures += 1
        if upstream.failures >= SILENCES_TO_DOWN:
            upstream.down_until = now + DOWN_S

    @staticmethod
    def refused(upstream: Upstream, now: float) -> None:
        """Its host says that nobody is there."""
        upstream.failures += 1
        upstream.down_until = now + DOWN_S


class Zones:
    """Upstream sets by suffix; the longest suffix of a name wins. `.` holds the default."""

    def __init__(self, default: UpstreamSet, domains: Mapping[str, UpstreamSet]) -> None:
        self.default = default
        self._domains: dict[bytes, UpstreamSet] = {}
        for suffix, members in domains.items():
            try:
                self._domains[to_wire(suffix)] = members
            except WireError:
                raise ConfigError(
                    f"dns.domain_upstreams {suffix!r} is not a domain",
                    field="dns.domain_upstreams",
                    value=suffix,
                ) from None

    def find(self, name: bytes) -> tuple[bytes, UpstreamSet]:
        """The zone's suffix and upstreams for the lower-case wire *name*."""
        if self._domains:
            at = 0
            while name[at]:
                found = self._domains.get(name[at:])
                if found is not None:
                    return name[at:], found
                at += name[at] + 1
        return b"\0", self.default

    def all(self) -> list[Upstream]:
        return [u for members in (self.default, *self._domains.values()) for u in members.members]

    def mark_looped(self, name: bytes, now: float) -> Upstream | None:
        """The upstream whose probe *name* is, which from now on is left out."""
        for upstream in self.all():
            if upstream.nonce and upstream.probe_name == name:
                upstream.looped_until = now + LOOPED_S
                return upstream
        return None
