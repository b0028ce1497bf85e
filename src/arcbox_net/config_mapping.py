"""A network's configuration as TOML and JSON have it. No I/O but `load_networks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcbox_net.config import Egress, NetConfig, NetworkMode, parse_host_access
from arcbox_net.config_dhcp import dhcp_from
from arcbox_net.config_dns import dns_from
from arcbox_net.config_ports import ports_from
from arcbox_net.config_values import (
    check_network_name,
    enum_of,
    known_keys,
    texts_of,
)
from arcbox_net.errors import ConfigError
from arcbox_net.rules import parse_forward


def config_from_mapping(body: Mapping[str, Any], *, where: str = "network") -> NetConfig:
    """A NetConfig from parsed TOML or JSON; every unknown key and wrong type is a ConfigError that names it."""
    values = dict(known_keys(body, NetConfig, where))
    if "mode" in values:
        values["mode"] = enum_of(NetworkMode, values["mode"], f"{where}.mode")
    if "egress" in values:
        values["egress"] = enum_of(Egress, values["egress"], f"{where}.egress")
    if "forwards" in values:
        values["forwards"] = tuple(
            parse_forward(text) for text in texts_of(values["forwards"], f"{where}.forwards")
        )
    if "host_access" in values:
        items = values["host_access"]
        values["host_access"] = tuple(
            parse_host_access(str(item)) for item in (items if isinstance(items, list) else [items])
        )
    if "ports" in values:
        values["ports"] = ports_from(values["ports"], f"{where}.ports")
    if "dhcp" in values:
        values["dhcp"] = dhcp_from(values["dhcp"], f"{where}.dhcp")
    if "dns" in values:
        values["dns"] = dns_from(values["dns"], f"{where}.dns")
    return NetConfig(**values)


def config_to_mapping(config: NetConfig) -> dict[str, Any]:
    """What `config_from_mapping` reads back as an equal NetConfig; plain JSON types only."""
    body = dataclasses.asdict(config)
    body["mode"] = config.mode.value
    body["egress"] = config.egress.value
    body["forwards"] = [str(rule) for rule in config.forwards]
    body["host_access"] = [str(item) for item in config.host_access]
    body["ports"] = [dataclasses.asdict(port) for port in config.ports]
    body["dhcp"]["options"] = {str(number): text for number, text in config.dhcp.options.items()}
    body["dhcp"]["reservations"] = [dataclasses.asdict(item) for item in config.dhcp.reservations]
    for key in ("pool", "search", "routes"):
        value = body["dhcp"][key]
        body["dhcp"][key] = None if value is None else [list(v) if isinstance(v, tuple) else v for v in value]
    for key in ("upstreams", "rebind_allow"):
        body["dns"][key] = list(body["dns"][key])
    for key in ("domain_upstreams", "records"):
        body["dns"][key] = {name: list(values) for name, values in body["dns"][key].items()}
    return body


def load_networks(path: str | Path) -> dict[str, NetConfig]:
    """The `[networks.NAME]` tables of a TOML file. Raises ConfigError with file, key and reason."""
    import tomllib

    try:
        document = tomllib.loads(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", field="file", value=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", field="file", value=str(path)) from None
    networks = document.pop("networks", None)
    if document:
        raise ConfigError(
            f"{path}: unknown table {next(iter(document))!r}",
            fix="networks are tables named [networks.NAME]",
            field=next(iter(document)),
            value=str(path),
        )
    if not isinstance(networks, dict) or not networks:
        raise ConfigError(f"{path}: no [networks.NAME] table", field="networks", value=str(path))
    found = {}
    for name, body in networks.items():
        if not isinstance(body, dict):
            raise ConfigError(f"{path}: networks.{name} is not a table", field=name, value=str(body))
        where = f"networks.{name}"
        try:
            check_network_name(name)
            if body.get("name", name) != name:
                raise ConfigError(f"its name is {name!r}", field="name", value=str(body["name"]))
            found[name] = config_from_mapping({**body, "name": name}, where=where)
        except ConfigError as error:
            error.message = f"{path}: {_placed(error, where)}"
            raise
    return found


def _placed(error: ConfigError, where: str) -> str:
    """What *error* says, with the table that it is about."""
    if error.message.startswith(where):
        return error.message
    is_of_field = error.message.startswith(str(error.field))
    return f"{where}{'.' if is_of_field else ': '}{error.message}"
