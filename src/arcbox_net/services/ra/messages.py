"""Router discovery on the wire (RFC 4861, RFC 8106): solicitations to values, advertisements to bytes. No I/O.

`parse_solicitation` is given what guests send, so it never raises: it returns a Solicitation or the reason why
there is none. The kernel has checked the ICMPv6 checksum before, and computes it after.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

ROUTER_SOLICIT = 133
ROUTER_ADVERT = 134
HOP_LIMIT = 255  # no router has forwarded it
SOLICIT_BYTES = 8
OPTIONS_MAX = 32  # of a solicitation; RFC 4861 knows one
GUEST_HOP_LIMIT = 64  # what guests put into their packets

OPT_SOURCE_MAC = 1
OPT_PREFIX = 3
OPT_MTU = 5
OPT_RDNSS = 25
OPT_DNSSL = 31

PREFIX_ON_LINK = 0x80
PREFIX_AUTONOMOUS = 0x40
# One advertisement fits the smallest IPv6 packet: what does not fit of the search list is left out.
SEARCH_BYTES_MAX = 1000
_LINK_LOCAL = IPv6Network("fe80::/10")
UNSPECIFIED = IPv6Address(0)


class DropReason(enum.Enum):
    """Why a packet got no answer."""

    HOP_LIMIT = "hop-limit"
    SHORT = "short"
    TYPE = "type"
    CODE = "code"
    OPTION = "option-length"
    SOURCE = "source"
    RATE = "rate"
    SEND = "send"


@dataclasses.dataclass(frozen=True, slots=True)
class Solicitation:
    """`source` unspecified: the guest has no address yet, so only a multicast reaches it."""

    source: IPv6Address


def parse_solicitation(
    packet: bytes, source: IPv6Address, hop_limit: int, subnet: IPv6Network
) -> Solicitation | DropReason:
    """The checks of RFC 4861 section 6.1.1. A source that is not on our link is none of our guests'."""
    if hop_limit != HOP_LIMIT:
        return DropReason.HOP_LIMIT
    if len(packet) < SOLICIT_BYTES:
        return DropReason.SHORT
    if packet[0] != ROUTER_SOLICIT:
        return DropReason.TYPE
    if packet[1] != 0:
        return DropReason.CODE
    if source != UNSPECIFIED and source not in _LINK_LOCAL and source not in subnet:
        return DropReason.SOURCE
    at = SOLICIT_BYTES
    for _ in range(OPTIONS_MAX + 1):
        if at == len(packet):
            return Solicitation(source)
        size = packet[at + 1] * 8 if len(packet) - at >= 2 else 0
        if size == 0 or size > len(packet) - at:
            return DropReason.OPTION
        if packet[at] == OPT_SOURCE_MAC and source == UNSPECIFIED:
            return DropReason.SOURCE
        at += size
    return DropReason.OPTION


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """What a router says of itself and its link. `router_s` 0: it is no default router."""

    router_s: int
    mac: bytes
    mtu: int
    prefix: IPv6Network
    prefix_valid_s: int
    prefix_preferred_s: int
    dns: tuple[IPv6Address, ...] = ()
    search: tuple[str, ...] = ()
    dns_s: int = 0

    def encode(self) -> bytes:
        """With no checksum: the kernel fills it in. No flags: there is no DHCPv6 server."""
        head = struct.pack("!BBHBBHII", ROUTER_ADVERT, 0, 0, GUEST_HOP_LIMIT, 0, self.router_s, 0, 0)
        return head + b"".join(
            (
                _option(OPT_SOURCE_MAC, self.mac),
                _option(OPT_MTU, struct.pack("!HI", 0, self.mtu)),
                self._prefix(),
                self._rdnss(),
                self._dnssl(),
            )
        )

    def _prefix(self) -> bytes:
        return _option(
            OPT_PREFIX,
            struct.pack(
                "!BBIII16s",
                self.prefix.prefixlen,
                PREFIX_ON_LINK | PREFIX_AUTONOMOUS,
                self.prefix_valid_s,
                self.prefix_preferred_s,
                0,
                self.prefix.network_address.packed,
            ),
        )

    def _rdnss(self) -> bytes:
        if not self.dns:
            return b""
        addresses = b"".join(address.packed for address in self.dns)
        return _option(OPT_RDNSS, struct.pack("!HI", 0, self.dns_s) + addresses)

    def _dnssl(self) -> bytes:
        names = encode_search(self.search)
        return _option(OPT_DNSSL, struct.pack("!HI", 0, self.dns_s) + names) if names else b""


def encode_search(domains: Sequence[str]) -> bytes:
    """Names without compression (RFC 8106 section 5.2), as many of the first as fit SEARCH_BYTES_MAX."""
    found = b""
    for domain in domains:
        labels = domain.rstrip(".").lower().encode("ascii").split(b".")
        name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
        if len(name) > SEARCH_BYTES_MAX - len(found):
            break
        found += name
    return found


def _option(number: int, payload: bytes) -> bytes:
    """Padded to a multiple of eight bytes, which its length counts."""
    size = (len(payload) + 2 + 7) // 8
    return struct.pack("!BB", number, size) + payload.ljust(size * 8 - 2, b"\0")
