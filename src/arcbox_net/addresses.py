"""MAC addresses, subnets and the order in which addresses are handed out. No I/O, no clock."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError, PoolExhausted

Subnet = ipaddress.IPv4Network
GLOBAL_ID_BYTES = 5  # RFC 4193 section 3.1: 40 random bits
_ULA = ipaddress.IPv6Network("fd00::/8")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


def parse_mac(text: str) -> bytes:
    """The six bytes of a unicast MAC address. Raises ConfigError."""
    lowered = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(lowered):
        raise ConfigError(f"{text!r} is not a MAC address such as 02:00:00:12:34:56", field="mac", value=text)
    mac = bytes.fromhex(lowered.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise ConfigError(f"{text!r} is a multicast or zero address, not a guest's", field="mac", value=text)
    return mac


def format_mac(mac: bytes) -> str:
    return mac.hex(":")


def stable_mac(*identity: str) -> str:
    """A locally administered MAC that is the same for the same *identity*, so leases survive restarts."""
    digest = hashlib.blake2b("\0".join(identity).encode(), digest_size=5, person=b"arcbox-net mac").digest()
    return format_mac(b"\x02" + digest)


def bridge_mac(network: str) -> str:
    """The MAC of a network's own bridge: no port's, whatever the port is called."""
    return stable_mac(network, "bridge", "")


def parse_ipv4(text: str, *, field: str) -> ipaddress.IPv4Address:
    """The address that *text* says. Raises ConfigError, which names *field*."""
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not an IPv4 address", field=field, value=text) from None


def parse_subnet(text: str) -> Subnet:
    """An IPv4 subnet with room for a gateway and guests (/8 to /29). Raises ConfigError."""
    try:
        subnet = ipaddress.IPv4Network(text, strict=True)
    except ValueError as error:
        raise ConfigError(f"subnet {text!r}: {error}", field="subnet", value=text) from None
    if not 8 <= subnet.prefixlen <= 29:
        raise ConfigError(f"subnet {text!r}: the prefix must be /8 to /29", field="subnet", value=text)
    if not subnet.is_private or subnet.is_loopback or subnet.is_link_local:
        raise ConfigError(
            f"subnet {text!r} is not a private range",
            fix="use one inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
            field="subnet",
            value=text,
        )
    return subnet


def parse_subnet6(text: str) -> ipaddress.IPv6Network:
    """A /64 inside fd00::/8: what guests make their own addresses from (RFC 4862). Raises ConfigError."""
    try:
        subnet = ipaddress.IPv6Network(text, strict=True)
    except ValueError as error:
        raise ConfigError(f"subnet6 {text!r}: {error}", field="subnet6", value=text) from None
    if subnet.prefixlen != 64 or not subnet.subnet_of(_ULA):
        raise ConfigError(
            f"subnet6 {text!r} is not a /64 inside fd00::/8",
            fix='leave it at "auto", which chooses one that nobody else has',
            field="subnet6",
            value=text,
        )
    return subnet


def ula_subnet(global_id: bytes) -> ipaddress.IPv6Network:
    """The first /64 of the site that the random *global_id* names (RFC 4193)."""
    if len(global_id) != GLOBAL_ID_BYTES:
        raise ValueError(f"a global id is {GLOBAL_ID_BYTES} bytes")
    return ipaddress.IPv6Network((b"\xfd" + global_id + bytes(10), 64))


def eui64_address(subnet: ipaddress.IPv6Network, mac: bytes) -> ipaddress.IPv6Address:
    """The address that a guest with *mac* makes itself in *subnet* (RFC 4291, appendix A)."""
    identifier = bytes((mac[0] ^ 0x02,)) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return ipaddress.IPv6Address(subnet.network_address.packed[:8] + identifier)


def candidate_subnets(first: Subnet) -> Iterator[Subnet]:
    """*first*, then its neighbours of the same size inside the private ranges: what `subnet = "auto"` tries."""
    yield first
    step = first.num_addresses
    home = next(
        (
            block
            for block in map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))
            if first.subnet_of(block)
        ),
        first,
    )
    count = home.num_addresses // step
    start = (int(first.network_address) - int(home.network_address)) // step
    for i in range(1, count):
        base = int(home.network_address) + ((start + i) % count) * step
        yield ipaddress.IPv4Network((base, first.prefixlen))


class IpAllocator:
    """Which addresses of a pool are taken, and by whom. Free ones go out lowest first.

    `holder` is any string that names the owner (a port, a lease's client). The DHCP server and `allocate_ip()`
    share one allocator, so an address never has two owners.
    """

    def __init__(self, first: ipaddress.IPv4Address, last: ipaddress.IPv4Address) -> None:
        if last < first:
            raise ConfigError(f"pool {first}–{last}: it ends before it starts", field="pool", value=str(last))
        self._first = int(first)
        self._last = int(last)
        self._holders: dict[int, str] = {}
        self._next = self._first

    def __contains__(self, address: ipaddress.IPv4Address) -> bool:
        return self._first <= int(address) <= self._last

    @property
    def size(self) -> int:
        return self._last - self._first + 1

    @property
    def available(self) -> int:
        """Free addresses of the pool. Addresses taken outside it do not count."""
        return self.size - sum(self._first <= value <= self._last for value in self._holders)

    def holder(self, address: ipaddress.IPv4Address) -> str | None:
        return self._holders.get(int(address))

    def held(self) -> Iterable[tuple[ipaddress.IPv4Address, str]]:
        return [(ipaddress.IPv4Address(value), who) for value, who in sorted(self._holders.items())]

    def take(self, address: ipaddress.IPv4Address, holder: str) -> None:
        """Give *address* (inside the pool or not) to *holder*. Raises AddressInUse."""
        current = self._holders.get(int(address))
        if current is not None and current != holder:
            raise AddressInUse(f"{address} belongs to {current}", address=str(address), holder=current)
        self._holders[int(address)] = holder

    def take_any(
        self, holder: str, usable: Callable[[ipaddress.IPv4Address], bool] | None = None
    ) -> ipaddress.IPv4Address:
        """Give *holder* the next free address of the pool that *usable* accepts. Raises PoolExhausted."""
        # A guest can ask often while nothing is free: the search is skipped then.
        for i in range(self.size if len(self._holders) < self.size or self.available else 0):
            value = self._first + (self._next - self._first + i) % self.size
            if value in self._holders:
                continue
            address = ipaddress.IPv4Address(value)
            if usable is None or usable(address):
                self._holders[value] = holder
                self._next = self._first + (value - self._first + 1) % self.size
                return address
        first, last = ipaddress.IPv4Address(self._first), ipaddress.IPv4Address(self._last)
        raise PoolExhausted(
            f"all {self.size} addresses of {first}–{last} are taken",
            fix="release one, shorten the lease time or widen the pool",
            subnet=f"{first}-{last}",
            size=self.size,
        )

    def release(self, address: ipaddress.IPv4Address) -> str:
        """Free *address* and return who held it. Raises AddressNotFound."""
        try:
            return self._holders.pop(int(address))
        except KeyError:
            raise AddressNotFound(f"{address} is not allocated", address=str(address)) from None
