"""Values of a NAT engine's configuration, parsed and checked one by one. Each raises `ConfigError` with its field."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
)

from arcbox_net.errors import ConfigError

TIMEOUT_MAX_S = 7 * 86400

PortRange = tuple[int, int]
PortRanges = PortRange | Sequence[PortRange]


def port_ranges(ranges: PortRanges) -> list[PortRange]:
    try:
        if len(ranges) == 2 and isinstance(ranges[0], int):
            ranges = [ranges]  # type: ignore[list-item]
        return [(int(low), int(high)) for low, high in ranges]  # type: ignore[misc]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{ranges!r} is no port range", fix="write (first, last)", field="port_range", value=ranges
        ) from error


def ipv4_address(name: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise ConfigError(f"{name}: {text!r} is no IPv4 address", field=name, value=text) from error


def ipv4_network(name: str, text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ConfigError(f"{name}: {error}", field=name, value=text) from error


def ipv6_address(name: str, text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError as error:
        raise ConfigError(f"{name}: {text!r} is no IPv6 address", field=name, value=text) from error


def ipv6_network(name: str, text: str) -> IPv6Network:
    try:
        return IPv6Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ConfigError(f"{name}: {error}", field=name, value=text) from error


def usable_ipv6(address: IPv6Address) -> bool:
    return not (
        address.is_multicast or address.is_link_local or address.ipv4_mapped or int(address) < 1 << 32
    )


def usable_ipv4(address: IPv4Address) -> bool:
    return not (address.is_multicast or address.is_loopback or int(address) >> 24 in (0, *range(240, 256)))


def check_one_of(name: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise ConfigError(
            f"{name} {value!r} is not known",
            fix=f"use one of {', '.join(map(str, known))}",
            field=name,
            value=value,
        )


def check_within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(
            f"{name} {value} is outside {low} to {high}",
            fix=f"use {low} to {high}",
            field=name,
            value=value,
        )


def check_timeout(name: str, value_s: int, floor_s: int) -> None:
    if value_s < floor_s:
        raise ConfigError(
            f"{name} {value_s} s is below the {floor_s} s that the RFCs ask for",
            fix="raise it, or set unsafe=True",
            field=name,
            value=value_s,
        )
    check_within(name, value_s, floor_s, TIMEOUT_MAX_S)
