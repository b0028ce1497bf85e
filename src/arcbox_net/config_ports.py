"""Guest ports that a network's file names: attached when the network starts, as `attach` would."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
from collections.abc import Callable, Iterable
from typing import Any

from arcbox_net.addresses import format_mac, parse_mac
from arcbox_net.config_types import check_types
from arcbox_net.config_values import check_port_name, ipv4_of, items_of, known_keys
from arcbox_net.errors import ConfigError

TAP = "tap"
SOCKET_KINDS = ("stream", "dgram", "vhost-user")  # of the user-space switch
PORT_KINDS = (TAP, *SOCKET_KINDS)
QUEUES_MAX = 16
PAIRS_MAX = 8  # queue pairs of a vhost-user guest
PATH_BYTES_MAX = 107 if hasattr(socket, "SO_PEERCRED") else 103  # sun_path without its end, as BSDs have it
UID_MAX = (1 << 32) - 1  # that one itself means no user
# Which kinds each of these is for.
_OF_KINDS = {
    "socket": SOCKET_KINDS,
    "connect": ("stream", "vhost-user"),
    "remote": ("dgram",),
    "queues": (TAP, "vhost-user"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class PortConfig:
    """A guest port. `kind`: "tap" (persistent, opened by its name), or "stream", "dgram" or "vhost-user" at `socket`.

    We listen there, unless we are to `connect`; `remote` is where datagrams go, None for where they come from.
    `owner_uid`: the user who may open it, besides the network's owner. What is None is chosen as for `attach`.
    """

    name: str
    kind: str
    socket: str | None = None
    mac: str | None = None
    ip: str | None = None
    hostname: str | None = None
    connect: bool = False
    remote: str | None = None
    queues: int | None = None
    owner_uid: int | None = None

    def __post_init__(self) -> None:
        check_types(self, "ports.")
        check_port_name(self.name, field="ports.name")
        if self.kind not in PORT_KINDS:
            raise self._error("kind", f"expected one of {', '.join(PORT_KINDS)}")
        for field, kinds in _OF_KINDS.items():
            if getattr(self, field) and self.kind not in kinds:
                raise self._error(field, f"goes with kind {' and '.join(kinds)}")
        if self.socket is None and self.kind != TAP:
            raise self._error("socket", f"kind {self.kind} needs one")
        for field in ("socket", "remote"):
            if getattr(self, field) is not None:
                check_socket_path(f"ports.{field}", getattr(self, field))
        check_remote("ports.remote", self.socket, self.remote)
        if self.mac is not None:
            object.__setattr__(self, "mac", format_mac(parse_mac(self.mac)))
        if self.ip is not None:
            ipv4_of("ports.ip", self.ip)
        if self.hostname is not None:
            check_port_name(self.hostname, field="ports.hostname")
        if self.queues is not None:
            check_queues(self.kind, self.queues)
        check_owner(self.owner_uid)

    def _error(self, field: str, why: str) -> ConfigError:
        value = getattr(self, field)
        return ConfigError(
            f"ports.{field} {value!r} of {self.name}: {why}", field=f"ports.{field}", value=value
        )


def check_ports(ports: Iterable[PortConfig], may_have: Callable[[ipaddress.IPv4Address], bool]) -> None:
    """No two have the same name, MAC, address or socket, and each *may_have* its address. Raises ConfigError."""
    seen: dict[tuple[str, str], PortConfig] = {}
    for port in ports:
        if port.ip is not None and not may_have(ipaddress.IPv4Address(port.ip)):
            raise ConfigError(
                f"ports.ip {port.ip} of {port.name} is no guest's address here",
                field="ports.ip",
                value=port.ip,
            )
        for field in ("name", "mac", "ip", "socket"):
            value = getattr(port, field)
            if value is not None and (other := seen.setdefault((field, value), port)) is not port:
                raise ConfigError(
                    f"ports {other.name} and {port.name} have the same {field}",
                    field=f"ports.{field}",
                    value=value,
                )


def ports_from(value: Any, where: str) -> tuple[PortConfig, ...]:
    """The `[[networks.NAME.ports]]` tables, as parsed."""
    return tuple(PortConfig(**known_keys(item, PortConfig, where)) for item in items_of(value, where))


def check_socket_path(field: str, path: str | None) -> None:
    if not path or not path.startswith("/") or "\0" in path:
        raise ConfigError(f"{field} {path!r}: expected an absolute path", field=field, value=path)
    check_path_size(field, path)


def check_path_size(field: str, path: str) -> None:
    size = len(os.fsencode(path))
    if size > PATH_BYTES_MAX:
        raise ConfigError(
            f"{path}: {size} bytes, and a unix socket's path has at most {PATH_BYTES_MAX}",
            fix="choose a directory with a shorter name",
            field=field,
            value=path,
        )


def check_remote(field: str, path: str | None, remote: str | None) -> None:
    if remote is not None and remote == path:
        raise ConfigError(
            f"{field} {remote} is our own socket",
            fix="name the one that the guest's monitor binds, or leave it out for who sends first",
            field=field,
            value=remote,
        )


def check_queues(kind: str, queues: int) -> None:
    most = PAIRS_MAX if kind == "vhost-user" else QUEUES_MAX
    if not 1 <= queues <= most:
        raise ConfigError(f"queues {queues}: expected 1 to {most}", field="queues", value=queues)


def check_owner(uid: int | None) -> None:
    if uid is not None and not 0 <= uid < UID_MAX:
        raise ConfigError(f"owner_uid {uid} is no user id", field="owner_uid", value=uid)
