"""Which addresses a public name must not lead to (DNS rebinding turns a guest against its neighbours)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from arcbox_net.services.dns.wire import AAAA, HTTPS, IN, SVCB, A, Record, WireError, ancestors, read_name

_PRIVATE_V4 = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
)
_PRIVATE_V6 = ("::/128", "::1/128", "fc00::/7", "fe80::/10", "fec0::/10")
_EMBED_V4 = ("::ffff:0:0/96", "::/96", "64:ff9b::/96")  # mapped, compatible, NAT64: the last 4 bytes are IPv4
_IPV4_HINT, _IPV6_HINT = 4, 6


def _ranges(texts: Sequence[str]) -> list[tuple[int, int]]:
    networks = [ip_network(text) for text in texts]
    return [(int(n.network_address), int(n.broadcast_address)) for n in networks]


class RebindFilter:
    """Finds private addresses in answers. Names below *allowed* may have them; *own* are private as well."""

    def __init__(self, own: Sequence[IPv4Network | IPv6Network] = (), allowed: Sequence[bytes] = ()) -> None:
        self._allowed = frozenset(allowed)
        self._v4 = _ranges([*_PRIVATE_V4, *(str(n) for n in own if n.version == 4)])
        self._v6 = _ranges([*_PRIVATE_V6, *(str(n) for n in own if n.version == 6)])
        self._embed = _ranges(_EMBED_V4)

    def is_private(self, address: bytes) -> bool:
        """Whether the packed IPv4 or IPv6 *address* is not a public one."""
        value = int.from_bytes(address, "big")
        if len(address) == 4:
            return any(first <= value <= last for first, last in self._v4)
        if any(first <= value <= last for first, last in self._v6):
            return True
        return any(first <= value <= last for first, last in self._embed) and self.is_private(address[12:])

    def catches(self, name: bytes, packet: bytes, records: Sequence[Record]) -> bool:
        """Whether any of the *records* of *packet*, the answer for *name*, leads where it must not."""
        if any(suffix in self._allowed for suffix in ancestors(name)):
            return False
        for r in records:
            if r.rclass != IN:
                continue
            if r.rtype in (A, AAAA):
                if self.is_private(packet[r.rdata_at : r.end]):
                    return True
            elif r.rtype in (SVCB, HTTPS) and any(map(self.is_private, _hints(packet[r.rdata_at : r.end]))):
                return True
        return False


def _hints(rdata: bytes) -> list[bytes]:
    """The address hints of a SVCB record (RFC 9460 7.3), none where it is malformed."""
    try:
        _, at = read_name(b"\0" * 12 + rdata, 14, {}, 12 + len(rdata))
    except WireError:
        return []
    at -= 12
    found = []
    while at + 4 <= len(rdata):
        key = rdata[at] << 8 | rdata[at + 1]
        size = rdata[at + 2] << 8 | rdata[at + 3]
        step = {_IPV4_HINT: 4, _IPV6_HINT: 16}.get(key)
        if step:
            value = rdata[at + 4 : at + 4 + size]
            found += [value[i : i + step] for i in range(0, len(value) - step + 1, step)]
        at += 4 + size
    return found
