"""What a router is told: its two sides, its routes and its neighbours, as plain values and as messages."""

from __future__ import annotations

import dataclasses
import enum
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network

from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.errors import LimitReached

ON_LINK_MAX = 4
_LINK_LOCAL = IPv6Network("fe80::/64")
_NO_PORT = 0xFFFF
_SETUP = struct.Struct("=HH6s 6s4s16s16s 6s4s16s16s 4s16s I32s I128s")
_NEIGHBOUR = struct.Struct("=BB6s16s")


@dataclasses.dataclass(frozen=True, slots=True)
class RouterConfig:
    """A router between guests, who see it as *gateway_mac*, and the port *uplink*, where it has *uplink_mac*.

    By the port *leg*, if there is one, it reaches guests that are not the switch's, and is *leg_mac* to them.

    *external* are addresses of the engine's with the prefixes that are on the uplink's link; the first of each family
    asks for others. *next_hop* and *next_hop6* are where everything else goes; None: nowhere. *gateway* and *gateways6*
    (link-local first) ask for guests.
    """

    uplink: int
    uplink_mac: str
    gateway_mac: str
    external: tuple[IPv4Interface | IPv6Interface, ...]
    next_hop: IPv4Address | None = None
    next_hop6: IPv6Address | None = None
    gateway: IPv4Address | None = None
    gateways6: tuple[IPv6Address, ...] = ()
    leg: int | None = None
    leg_mac: str | None = None


class Way(enum.IntEnum):
    """How a router reaches a neighbour."""

    UPLINK = 0
    SWITCH = 1
    LEG = 2


class Told(enum.IntEnum):
    """What control says of a neighbour.

    UNKNOWN: the router asks for it itself. SOUGHT: control does, and packets wait. UNREACHABLE: they are refused.
    """

    UNKNOWN = 0
    SOUGHT = 1
    MAC = 2
    UNREACHABLE = 3


def setup_payload(config: RouterConfig) -> bytes:
    external4 = [one for one in config.external if isinstance(one, IPv4Interface)]
    external6 = [one for one in config.external if isinstance(one, IPv6Interface)]
    networks4 = list(dict.fromkeys(one.network for one in external4))
    networks6 = list(dict.fromkeys(one.network for one in external6))
    for networks in (networks4, networks6):
        if len(networks) > ON_LINK_MAX:
            raise LimitReached(f"{len(networks)} prefixes of an uplink", limit="prefixes", value=ON_LINK_MAX)
    return _SETUP.pack(
        config.uplink,
        _NO_PORT if config.leg is None else config.leg,
        parse_mac(config.leg_mac) if config.leg_mac else b"",
        parse_mac(config.uplink_mac),
        _octets(external4[0].ip if external4 else None),
        _octets(external6[0].ip if external6 else None),
        eui64_address(_LINK_LOCAL, parse_mac(config.uplink_mac)).packed,
        parse_mac(config.gateway_mac),
        _octets(config.gateway),
        _octets(config.gateways6[-1] if config.gateways6 else None),
        _octets(config.gateways6[0] if config.gateways6 else None),
        _octets(config.next_hop),
        _octets(config.next_hop6),
        len(networks4),
        b"".join(network.network_address.packed + network.netmask.packed for network in networks4),
        len(networks6),
        b"".join(network.network_address.packed + network.netmask.packed for network in networks6),
    )


def neighbour_payload(way: Way, ip: IPv4Address | IPv6Address, said: str | Told) -> bytes:
    key = ip.packed if isinstance(ip, IPv6Address) else IPv6Address(f"::ffff:{ip}").packed
    if isinstance(said, Told):
        return _NEIGHBOUR.pack(way, said, b"", key)
    return _NEIGHBOUR.pack(way, Told.MAC, parse_mac(said), key)


def _octets(address: IPv4Address | IPv6Address | None) -> bytes:
    return address.packed if address else b""
