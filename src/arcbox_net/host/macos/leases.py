"""The lease file of macOS's DHCP server, for shared and host mode. A name in it is what a guest said."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

from arcbox_net.config_values import check_port_name
from arcbox_net.errors import ConfigError

PATH = Path("/var/db/dhcpd_leases")
FILE_BYTES_MAX = 1 << 20
LEASES_MAX = 4096
LINE_BYTES_MAX = 512
HARDWARE_ETHERNET = "1"
_HEX = re.compile(r"0x[0-9a-fA-F]{1,16}")
_OCTET = re.compile(r"[0-9a-fA-F]{1,2}")


class SystemLease(NamedTuple):
    """*mac* None: the server knows the client by another identifier. *expires*: seconds since the epoch."""

    ip: IPv4Address
    mac: str | None
    hostname: str | None
    expires: float


def parse_leases(text: bytes) -> list[SystemLease]:
    """Every lease that is whole; of several of one address the one that ends last. What is none is passed over."""
    found: dict[IPv4Address, SystemLease] = {}
    fields: dict[str, str] | None = None
    for raw in text[:FILE_BYTES_MAX].splitlines():
        line = raw[: LINE_BYTES_MAX + 1].decode("ascii", "replace").strip()
        if line == "{":
            fields = {}
        elif line == "}":
            lease = _lease(fields) if fields is not None else None
            if lease is not None:
                _keep(found, lease)
            fields = None
        elif fields is not None and len(raw) <= LINE_BYTES_MAX:
            key, equals, value = line.partition("=")
            if equals:
                fields[key] = value
    return list(found.values())


def _keep(found: dict[IPv4Address, SystemLease], lease: SystemLease) -> None:
    known = found.get(lease.ip)
    if lease.expires >= known.expires if known is not None else len(found) < LEASES_MAX:
        found[lease.ip] = lease


class LeaseFile:
    """The file at *path*, which is read again when it has changed."""

    def __init__(self, path: Path = PATH) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._leases: list[SystemLease] = []

    def read(self) -> list[SystemLease]:
        """What it says now; none if there is no file that can be read."""
        try:
            found = self._path.stat()
            seen = found.st_ino, found.st_size, found.st_mtime_ns
            if seen != self._seen:
                with self._path.open("rb") as file:
                    self._leases = parse_leases(file.read(FILE_BYTES_MAX))
                self._seen = seen
        except OSError:
            self._seen, self._leases = None, []
        return self._leases


def _lease(fields: dict[str, str]) -> SystemLease | None:
    try:
        ip = IPv4Address(fields["ip_address"])
        expires = fields["lease"]
    except (KeyError, ValueError):
        return None
    if not _HEX.fullmatch(expires):
        return None
    return SystemLease(
        ip, _mac(fields.get("hw_address", "")), _hostname(fields.get("name")), int(expires, 16)
    )


def _mac(text: str) -> str | None:
    """Of `1,2:0:0:a:b:c`: octets have no leading zeros."""
    kind, _, address = text.partition(",")
    octets = address.split(":")
    if kind != HARDWARE_ETHERNET or len(octets) != 6 or not all(map(_OCTET.fullmatch, octets)):
        return None
    return ":".join(f"{int(octet, 16):02x}" for octet in octets)


def _hostname(text: str | None) -> str | None:
    try:
        return check_port_name(text, field="hostname") if text else None
    except ConfigError:
        return None
