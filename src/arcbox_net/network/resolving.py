"""Whom a forward means by a guest's name, or by none."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arcbox_net.network.addressing import Addressing
    from arcbox_net.network.naming import Naming
    from arcbox_net.network.ports import PortTable


class Resolver:
    """Called with what a rule says of its guest: the address that one has now, None while it has none.

    A name is an IPv4 address: that is the one every guest has, and the one its programs listen on for sure.
    """

    def __init__(self, ports: PortTable, addressing: Addressing | None, naming: Naming) -> None:
        self._ports = ports
        self._addressing = addressing
        self._naming = naming

    def __call__(self, guest: str | None) -> IPv4Address | IPv6Address | None:
        if guest is None:
            first = self._ports.first()
            return first.ip if first else None
        address = address_or_none(guest)
        if address is not None:
            return address
        port = self._ports.of_guest(guest)
        if port is not None:
            return port.ip
        named = self._addressing.by_hostname(guest.lower()) if self._addressing else None
        return named or self._naming.leased(guest)


def address_or_none(text: str | None) -> IPv4Address | IPv6Address | None:
    try:
        return ipaddress.ip_address(text) if text else None
    except ValueError:
        return None
