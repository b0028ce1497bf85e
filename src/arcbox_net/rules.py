"""Port-forwarding rules: the value, its docker/podman spelling, and when two of them collide. No I/O.

    [host_ip:]host_port[-end]:[guest:]guest_port[-end][/tcp|udp]

`host_ip` defaults to 127.0.0.1: being reachable from outside needs the explicit 0.0.0.0 or an address.
`guest` is a port name, a leased host name or an address in the subnet; left out, it is the first guest attached.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from arcbox_net.errors import ConfigError

PROTOCOLS = ("tcp", "udp")
L4_PORT_MAX = 65535
LOOPBACK, LOOPBACK6 = "127.0.0.1", "::1"
EXPECTED = "expected [host_ip:]host_port[-end]:[guest:]guest_port[-end][/tcp|udp]"
_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_GUEST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ForwardRule:
    """Forward `host_ip:host_port…host_port_end` to `guest:guest_port…`; both ranges are equally long."""

    protocol: str
    host_ip: str
    host_port: int
    host_port_end: int
    guest: str | None
    guest_port: int
    guest_port_end: int

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise _bad("protocol", self.protocol, "expected tcp or udp")
        try:
            canonical = str(ipaddress.ip_address(self.host_ip))
        except ValueError:
            raise _bad("host_ip", self.host_ip, "expected an IPv4 or IPv6 address") from None
        object.__setattr__(self, "host_ip", canonical)
        for field in ("host_port", "host_port_end", "guest_port", "guest_port_end"):
            value = getattr(self, field)
            if not isinstance(value, int) or not 1 <= value <= L4_PORT_MAX:
                raise _bad(field, value, f"a port number is 1 to {L4_PORT_MAX}")
        if self.host_port_end < self.host_port:
            raise _bad("host_port_end", self.host_port_end, "a range ends at or after its start")
        if self.guest_port_end - self.guest_port != self.host_port_end - self.host_port:
            raise _bad("guest_port_end", self.guest_port_end, "host and guest ranges must be equally long")
        if self.guest is not None and not _is_guest(self.guest):
            raise _bad("guest", self.guest, "expected a port name, a host name or an address")

    @property
    def size(self) -> int:
        return self.host_port_end - self.host_port + 1

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.host_ip).is_loopback

    def pairs(self) -> list[tuple[int, int]]:
        """Every (host_port, guest_port) of the rule, in order."""
        return [(self.host_port + i, self.guest_port + i) for i in range(self.size)]

    def overlaps(self, other: ForwardRule) -> bool:
        """Whether a host packet could match both rules."""
        if self.protocol != other.protocol:
            return False
        if self.host_port > other.host_port_end or other.host_port > self.host_port_end:
            return False
        mine, theirs = ipaddress.ip_address(self.host_ip), ipaddress.ip_address(other.host_ip)
        if mine.version != theirs.version:
            return False
        return mine == theirs or mine.is_unspecified or theirs.is_unspecified

    def __str__(self) -> str:
        host = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        spec = f"{host}:{_range_text(self.host_port, self.host_port_end)}:"
        if self.guest is not None:
            spec += (f"[{self.guest}]" if ":" in self.guest else self.guest) + ":"
        return f"{spec}{_range_text(self.guest_port, self.guest_port_end)}/{self.protocol}"


def parse_forward(spec: str) -> ForwardRule:
    """The rule that *spec* spells. Raises ConfigError with the part that is wrong."""
    body, slash, protocol = spec.strip().partition("/")
    parts = _split(body, spec)
    if len(parts) == 1 and _RANGE.fullmatch(parts[0]):
        parts = [parts[0], parts[0]]  # "8080" is "8080:8080", as in podman's reverse reading of EXPOSE
    if not 2 <= len(parts) <= 4:
        raise _bad("forward", spec, EXPECTED)
    host_ip = LOOPBACK
    if not _RANGE.fullmatch(parts[0]):
        host_ip = parts.pop(0)
    if len(parts) not in (2, 3):
        raise _bad("forward", spec, EXPECTED)
    guest = parts[1] if len(parts) == 3 else None
    host_port, host_port_end = _parse_range(parts[0], spec)
    guest_port, guest_port_end = _parse_range(parts[-1], spec)
    return ForwardRule(
        protocol=(protocol.lower() if slash else "tcp"),
        host_ip=host_ip,
        host_port=host_port,
        host_port_end=host_port_end,
        guest=guest,
        guest_port=guest_port,
        guest_port_end=guest_port_end,
    )


def _split(body: str, spec: str) -> list[str]:
    parts = re.findall(r"\[[^\[\]]+\]|[^:\[\]]+", body)
    if ":".join(parts) != body:
        raise _bad("forward", spec, "a part is empty; IPv6 addresses go in brackets: [::1]:8080:80")
    return [part.strip("[]") for part in parts]


def _parse_range(text: str, spec: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise _bad("forward", spec, f"{text!r} is not a port number or range")
    first = int(match.group(1))
    return first, int(match.group(2)) if match.group(2) else first


def _range_text(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _is_guest(text: str) -> bool:
    if _GUEST_NAME.fullmatch(text):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _bad(field: str, value: object, why: str) -> ConfigError:
    what = "" if field == "forward" else f"{field} "
    return ConfigError(f"forward: {what}{value!r}: {why}", field=field, value=value)
