"""What a switch is told of a port and of its network, as plain values, and how they lie in a message."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Literal, Protocol

from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.errors import LimitReached

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Port, Receiver

Role = Literal["guest", "uplink", "trusted", "router", "service"]

IPV4_MAX = 16
IPV6_MAX = 16
GATEWAYS6_MAX = 4
_LINK_LOCAL = IPv6Network("fe80::/64")
_ROLES: dict[Role, int] = {"guest": 1, "uplink": 2, "trusted": 3, "router": 4, "service": 5}
_NO_PORT = 0xFFFF
_ANY_IPV4, _ISOLATED = 1, 2
_BIND = struct.Struct("=6sBBII64s256s")
_NETWORK = struct.Struct("=6sHH4s4s4s16s16sI64s")


class Control(Protocol):
    """Who has messages brought to ports: a worker, or a group of them."""

    def send(self, number: int, kind: int, payload: bytes = b"") -> int: ...


class PortHolder(Control, Protocol):
    """Who has ports: a worker, or a `Place`."""

    def add(self, port: Port, sink: Receiver) -> int: ...
    def remove(self, number: int) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class PortBinding:
    """Who is behind a port, and what it may send.

    A "guest" sends from *mac* (None: from up to 8 that nobody has) and the *ipv4* addresses (None: from any), and owns
    the *ipv6* addresses; others of the network's prefix become its own when it is the first to use them. "trusted" is
    a guest that may send anything, "uplink" leads to the network's bridge, and a *mac* of it is not to be learned
    anywhere else. "router" is a `Router`'s. "service" answers in the gateway's name, and has a *mac* of its own.
    Isolated ports hear nothing of each other.
    """

    role: Role = "guest"
    mac: str | None = None
    ipv4: tuple[IPv4Address, ...] | None = ()
    ipv6: tuple[IPv6Address, ...] = ()
    isolated: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class SwitchNetwork:
    """The network that a switch is of. Without *subnet6*, guests' IPv6 addresses are others' business.

    *gateways6* are never a guest's. With a *router* (a port's number), packets to *gateway_mac* that leave the subnets
    go to it. With a *service* (another port's number), guests' DHCP, and their datagrams to port 53 of *gateway*, go
    there, and no DHCP server beyond the uplink is heard.
    """

    subnet6: IPv6Network | None = None
    gateways6: tuple[IPv6Address, ...] = ()
    router: int | None = None
    gateway_mac: str | None = None
    subnet: IPv4Network | None = None
    service: int | None = None
    gateway: IPv4Address | None = None


def bind_payload(binding: PortBinding) -> bytes:
    ipv4 = binding.ipv4 or ()
    ipv6 = binding.ipv6
    if binding.mac is not None and binding.role in ("guest", "trusted"):
        ipv6 = tuple(dict.fromkeys((eui64_address(_LINK_LOCAL, parse_mac(binding.mac)), *ipv6)))
    _within("IPv4 addresses of a port", len(ipv4), IPV4_MAX)
    _within("IPv6 addresses of a port", len(ipv6), IPV6_MAX)
    flags = (_ANY_IPV4 if binding.ipv4 is None else 0) | (_ISOLATED if binding.isolated else 0)
    return _BIND.pack(
        _mac(binding.mac), _ROLES[binding.role], flags, len(ipv4), len(ipv6), _packed(ipv4), _packed(ipv6)
    )


def network_payload(network: SwitchNetwork) -> bytes:
    _within("IPv6 gateways of a network", len(network.gateways6), GATEWAYS6_MAX)
    subnet, subnet6 = network.subnet, network.subnet6
    return _NETWORK.pack(
        _mac(network.gateway_mac),
        _NO_PORT if network.router is None else network.router,
        _NO_PORT if network.service is None else network.service,
        network.gateway.packed if network.gateway else b"",
        subnet.network_address.packed if subnet else b"",
        subnet.netmask.packed if subnet else b"",
        subnet6.network_address.packed if subnet6 else b"",
        subnet6.netmask.packed if subnet6 else b"",
        len(network.gateways6),
        _packed(network.gateways6),
    )


def _mac(mac: str | None) -> bytes:
    return parse_mac(mac) if mac else b""


def _packed(addresses: Iterable[IPv4Address | IPv6Address]) -> bytes:
    return b"".join(address.packed for address in addresses)


def _within(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise LimitReached(f"{count} {what}", limit=what, value=limit)
