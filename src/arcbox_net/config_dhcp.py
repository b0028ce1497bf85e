"""The settings of a network's DHCP server."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from arcbox_net.addresses import parse_mac
from arcbox_net.config_types import check_types
from arcbox_net.config_values import (
    check_domain,
    check_port_name,
    ipv4_of,
    items_of,
    known_keys,
    texts_of,
)
from arcbox_net.errors import ConfigError

LEASE_S_MIN = 120
LEASE_S_DEFAULT = 3600
LEASE_S_MAX = 7 * 86400
ADDRESSES_PER_PORT_MAX = 4
DHCP_REQUESTS_PER_S = 20

_OPTION = re.compile(r"[0-9]{1,3}")


@dataclasses.dataclass(frozen=True, slots=True)
class Reservation:
    """A fixed address for a MAC (and a host name for DNS)."""

    mac: str
    ip: str
    hostname: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "reservations.")
        parse_mac(self.mac)
        ipv4_of("reservations.ip", self.ip)
        if self.hostname is not None:
            check_port_name(self.hostname, field="reservations.hostname")


@dataclasses.dataclass(frozen=True, slots=True)
class DhcpConfig:
    """The DHCP server. `enabled=None`: on for NAT and host-only, off for bridge.

    `options` maps an option number to its payload: text, or hex with the prefix `0x`. `requests_per_s` is the
    limit for each guest; 0 is none.
    """

    enabled: bool | None = None
    pool: tuple[str, str] | None = None
    lease_s: int = LEASE_S_DEFAULT
    max_lease_s: int = LEASE_S_MAX
    match: str = "client-id"
    reservations: tuple[Reservation, ...] = ()
    options: Mapping[int, str] = dataclasses.field(default_factory=dict)
    search: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()
    addresses_per_port_max: int = ADDRESSES_PER_PORT_MAX
    requests_per_s: int = DHCP_REQUESTS_PER_S

    def __post_init__(self) -> None:
        check_types(self, "dhcp.")
        for address in self.pool or ():
            ipv4_of("dhcp.pool", address)
        if not LEASE_S_MIN <= self.lease_s <= self.max_lease_s <= 0xFFFFFFFE:
            raise ConfigError(
                f"dhcp.lease_s {self.lease_s}: expected {LEASE_S_MIN} to max_lease_s ({self.max_lease_s})",
                field="dhcp.lease_s",
                value=self.lease_s,
            )
        if self.addresses_per_port_max < 1:
            raise ConfigError(
                f"dhcp.addresses_per_port_max {self.addresses_per_port_max}: at least 1",
                field="dhcp.addresses_per_port_max",
                value=self.addresses_per_port_max,
            )
        if self.requests_per_s < 0:
            raise ConfigError(
                f"dhcp.requests_per_s {self.requests_per_s}: expected 0 or more",
                field="dhcp.requests_per_s",
                value=self.requests_per_s,
            )
        if self.match not in ("client-id", "mac"):
            raise ConfigError(
                f"dhcp.match {self.match!r}: expected client-id or mac", field="dhcp.match", value=self.match
            )
        for number in self.options:
            if not 1 <= number <= 254:
                raise ConfigError(
                    f"dhcp.options {number}: an option is 1 to 254", field="dhcp.options", value=number
                )
            self.option_payload(number)
        for domain in self.search:
            check_domain("dhcp.search", domain)
        for destination, router in self.routes:
            try:
                ipaddress.IPv4Network(destination)
            except ValueError as error:
                raise ConfigError(f"dhcp.routes: {error}", field="dhcp.routes", value=destination) from None
            ipv4_of("dhcp.routes", router)

    def option_payload(self, number: int) -> bytes:
        """The bytes configured for option *number*. Raises ConfigError when its hex is broken or it is too long."""
        text = self.options[number]
        try:
            payload = bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()
        except ValueError:
            raise ConfigError(
                f"dhcp.options {number}: {text!r} is not hex", field="dhcp.options", value=text
            ) from None
        if not 1 <= len(payload) <= 255:
            raise ConfigError(f"dhcp.options {number}: 1 to 255 bytes", field="dhcp.options", value=text)
        return payload


def dhcp_from(body: Any, where: str) -> DhcpConfig:
    values = dict(known_keys(body, DhcpConfig, where))
    if values.get("pool") is not None:
        pool = texts_of(values["pool"], f"{where}.pool")
        if len(pool) != 2:
            raise ConfigError(f"{where}.pool: expected [first, last]", field=f"{where}.pool", value=str(pool))
        values["pool"] = (pool[0], pool[1])
    if "reservations" in values:
        items = items_of(values["reservations"], f"{where}.reservations")
        values["reservations"] = tuple(
            Reservation(**known_keys(item, Reservation, f"{where}.reservations")) for item in items
        )
    if "options" in values:
        options = values["options"]
        if not isinstance(options, Mapping) or not all(_OPTION.fullmatch(str(key)) for key in options):
            raise ConfigError(
                f"{where}.options: expected number = text", field=f"{where}.options", value=str(options)
            )
        values["options"] = {int(key): text for key, text in options.items()}
    if "search" in values:
        values["search"] = tuple(texts_of(values["search"], f"{where}.search"))
    if "routes" in values:
        routes = [texts_of(item, f"{where}.routes") for item in items_of(values["routes"], f"{where}.routes")]
        if any(len(item) != 2 for item in routes):
            raise ConfigError(
                f"{where}.routes: expected [[cidr, router]]", field=f"{where}.routes", value=str(routes)
            )
        values["routes"] = tuple((item[0], item[1]) for item in routes)
    return DhcpConfig(**values)
