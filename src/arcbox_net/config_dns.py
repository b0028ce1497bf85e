"""The settings of a network's DNS forwarder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from arcbox_net.config_types import check_types
from arcbox_net.config_values import (
    check_domain,
    ip_of,
    known_keys,
    parse_endpoint,
    texts_of,
)
from arcbox_net.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True)
class DnsConfig:
    """The DNS forwarder. `enabled=None`: on for NAT and host-only, off for bridge.

    `upstreams` empty: those of /etc/resolv.conf, followed live. An upstream is `address` or `address:port`
    (`[v6]:port`). `domain_upstreams` sends a suffix elsewhere. `records` are static `name → addresses`.
    """

    enabled: bool | None = None
    upstreams: tuple[str, ...] = ()
    domain_upstreams: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    records: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    domain: str | None = None
    rebind_protection: bool = False
    rebind_allow: tuple[str, ...] = ()
    cache_entries_max: int = 8192

    def __post_init__(self) -> None:
        check_types(self, "dns.")
        for upstream in self.upstreams:
            parse_endpoint("dns.upstreams", upstream, 53)
        for suffix, upstreams in self.domain_upstreams.items():
            check_domain("dns.domain_upstreams", suffix)
            if not upstreams:
                raise ConfigError(
                    f"dns.domain_upstreams {suffix!r}: no upstream given",
                    field="dns.domain_upstreams",
                    value=suffix,
                )
            for upstream in upstreams:
                parse_endpoint("dns.domain_upstreams", upstream, 53)
        for name, addresses in self.records.items():
            check_domain("dns.records", name)
            for address in addresses:
                ip_of("dns.records", address)
        if self.domain is not None:
            check_domain("dns.domain", self.domain)
        for suffix in self.rebind_allow:
            check_domain("dns.rebind_allow", suffix)
        if not 0 <= self.cache_entries_max <= 1 << 20:
            raise ConfigError(
                f"dns.cache_entries_max {self.cache_entries_max}: 0 to {1 << 20}",
                field="dns.cache_entries_max",
                value=self.cache_entries_max,
            )


def dns_from(body: Any, where: str) -> DnsConfig:
    values = dict(known_keys(body, DnsConfig, where))
    for field in ("upstreams", "rebind_allow"):
        if field in values:
            values[field] = tuple(texts_of(values[field], f"{where}.{field}"))
    for field in ("domain_upstreams", "records"):
        if field in values:
            if not isinstance(values[field], Mapping):
                raise ConfigError(
                    f"{where}.{field}: expected a table", field=f"{where}.{field}", value=str(values[field])
                )
            values[field] = {
                str(name): tuple(
                    texts_of([item] if isinstance(item, str) else item, f"{where}.{field}.{name}")
                )
                for name, item in values[field].items()
            }
    return DnsConfig(**values)
