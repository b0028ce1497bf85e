"""Single values of a configuration: names, addresses and tables as parsed TOML or JSON has them, checked.

Each raises ConfigError with the field and the value.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from arcbox_net.errors import ConfigError

_ENDPOINT = re.compile(
    r"\[([^\]]+)\](?::([0-9]{1,5}))?|([0-9.]+)(?::([0-9]{1,5}))?|([0-9A-Fa-f:.]+(?:%[!-~]+)?)"
)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_PORT_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def check_network_name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"network name {name!r}: 1 to 32 of a-z 0-9 -, not starting or ending with -",
            field="name",
            value=name,
        )
    return name


def check_port_name(name: str, *, field: str = "port") -> str:
    if not isinstance(name, str) or not _PORT_NAME.fullmatch(name):
        raise ConfigError(
            f"{field} {name!r}: 1 to 63 letters, digits and -, not starting or ending with -",
            field=field,
            value=name,
        )
    return name


def check_ifname(field: str, ifname: str) -> str:
    # Without what would end nft's quotes or be its wildcard.
    if (
        not isinstance(ifname, str)
        or not re.fullmatch(r"[!#-)+-.0-\[\]-~]{1,15}", ifname)
        or ifname in (".", "..")
    ):
        raise ConfigError(f"{field} {ifname!r} is not an interface name", field=field, value=ifname)
    return ifname


def check_domain(field: str, name: str) -> str:
    if not isinstance(name, str) or len(name) > 253 or not _DOMAIN.fullmatch(name):
        raise ConfigError(f"{field} {name!r} is not a domain name", field=field, value=name)
    return name


def parse_endpoint(field: str, text: str, default: int) -> tuple[str, int]:
    """`(address, l4_port)` from `1.2.3.4`, `1.2.3.4:5353`, `::1`, `fe80::1%eth0` or `[::1]:53`. Raises ConfigError."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{field} {text!r}: expected address or address:port", field=field, value=text)
    address = match.group(1) or match.group(3) or match.group(5)
    number = match.group(2) or match.group(4)
    l4_port = int(number) if number else default
    if not 1 <= l4_port <= 65535:
        raise ConfigError(f"{field} {text!r}: a port number is 1 to 65535", field=field, value=text)
    return str(ip_of(field, address)), l4_port


def known_keys(body: Any, cls: type, where: str) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise ConfigError(f"{where}: expected a table, got {body!r}", field=where, value=str(body))
    fields = [field.name for field in dataclasses.fields(cls)]
    for key in body:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            raise ConfigError(
                f"{where}: unknown key {key!r}",
                fix=f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(fields)}",
                field=f"{where}.{key}",
                value=str(body[key]),
            )
    for field in dataclasses.fields(cls):
        if field.default is field.default_factory is dataclasses.MISSING and field.name not in body:
            raise ConfigError(
                f"{where}: {field.name} is missing", field=f"{where}.{field.name}", value=str(body)
            )
    return body


def items_of(value: Any, where: str) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, got {value!r}", field=where, value=str(value))
    return list(value)


def texts_of(value: Any, where: str) -> list[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ConfigError(
            f"{where}: expected a list of strings, got {value!r}", field=where, value=str(value)
        )
    return list(value)


def enum_of(cls: type[enum.Enum], value: Any, where: str) -> Any:
    try:
        return cls(value)
    except ValueError:
        known = ", ".join(str(item.value) for item in cls)
        raise ConfigError(f"{where}: {value!r} is none of {known}", field=where, value=str(value)) from None


def ipv4_of(field: str, text: str) -> ipaddress.IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise ConfigError(f"{field} {text!r} is not an IPv4 address", field=field, value=text) from None


def ip_of(field: str, text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise ConfigError(f"{field} {text!r} is not an address", field=field, value=text) from None
