"""Forget connections whose translation is gone. Lists and deletes conntrack entries; keeps no state.

Without this a UDP client that keeps sending would hold a removed forward open for ever, and a forward added
while a client is already sending would never see that client.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

from arcbox_net.host.linux import nfnetlink
from arcbox_net.host.linux.netlink import attr, attrs, nested
from arcbox_net.host.linux.nfnetlink import NfnetlinkSocket

COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
MAX_WANTED = 262144
NEARLY_FULL_RATIO = 0.8  # from 95 % on the kernel drops old connections for new ones

CT_GET = nfnetlink.SUBSYS_CONNTRACK << 8 | 1
_CT_DELETE = nfnetlink.SUBSYS_CONNTRACK << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_STATUS, _STATUS_MASK = 3, 26
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_SRC, _IP_DST = {4: 1, 6: 3}, {4: 2, 6: 4}
_ADDRESS_BYTES = {4: 4, 6: 16}
FAMILIES = {4: nfnetlink.NFPROTO_IPV4, 6: nfnetlink.NFPROTO_IPV6}
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_STATUS_DST_NAT = 1 << 5
PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}


@dataclasses.dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a connection: addresses as integers, ports 0 where the protocol has none."""

    protocol: int
    src: int
    dst: int
    src_port: int
    dst_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A conntrack entry of one IP version. `key` is the attributes that name it to the kernel."""

    original: Tuple
    reply: Tuple
    key: bytes
    version: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Translation:
    """Connections to `host_ip`:`host_port` (None: any address) that end at `target`:`target_port`."""

    protocol: str
    host_ip: IPv4Address | IPv6Address | None
    host_port: int
    target: IPv4Address | IPv6Address
    target_port: int


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How many connections the kernel follows here, and how many it can. New ones beyond are dropped."""

    used: int
    limit: int

    @property
    def is_nearly_full(self) -> bool:
        return self.used > self.limit * NEARLY_FULL_RATIO

    @property
    def fix(self) -> str:
        return f"sysctl -w net.netfilter.nf_conntrack_max={max(MAX_WANTED, 2 * self.limit)}"

    def __str__(self) -> str:
        return f"{self.used} of {self.limit} connections"


def room(root: Path = Path("/")) -> Room | None:
    """That of the calling thread's network namespace; None while nothing is followed."""
    try:
        used, limit = (int((root / path.relative_to("/")).read_text()) for path in (COUNT, MAX))
    except (OSError, ValueError):
        return None
    return Room(used, limit)


def forget_translations(gone: Collection[Translation]) -> int:
    """Delete exactly the entries that *gone* translated; returns how many there were. Raises OSError."""
    wanted: dict[tuple[int, ...], set[int | None]] = {}
    for t in gone:
        key = (t.target.version, PROTOCOLS[t.protocol], t.host_port, int(t.target), t.target_port)
        wanted.setdefault(key, set()).add(None if t.host_ip is None else int(t.host_ip))

    def matches(entry: Entry) -> bool:
        original, reply = entry.original, entry.reply
        hosts = wanted.get((entry.version, original.protocol, original.dst_port, reply.src, reply.src_port))
        return hosts is not None and (None in hosts or original.dst in hosts)

    return _forget(matches, {key[0] for key in wanted}, translated=True)


def forget_stale(new: Iterable[Translation]) -> int:
    """Delete UDP entries to the host ports of *new* that lead elsewhere; returns how many. Raises OSError."""
    wanted: dict[tuple[int, int], dict[int | None, tuple[int, int]]] = {}
    for t in new:
        if t.protocol == "udp":
            host = None if t.host_ip is None else int(t.host_ip)
            wanted.setdefault((t.target.version, t.host_port), {})[host] = (int(t.target), t.target_port)

    def matches(entry: Entry) -> bool:
        original, reply = entry.original, entry.reply
        hosts = wanted.get((entry.version, original.dst_port))
        if original.protocol != socket.IPPROTO_UDP or hosts is None:
            return False
        target = hosts.get(original.dst)
        if target is None and None in hosts and reply.src == original.dst:
            # Any address of the host: an entry that nothing translates may be one that is to be translated.
            target = hosts[None]
        return target is not None and (reply.src, reply.src_port) != target

    return _forget(matches, {version for version, _ in wanted}, translated=False)


def forget_guests(addresses: Collection[IPv4Address | IPv6Address]) -> int:
    """Delete every entry of those guests: the next owner of an address inherits no connection."""
    gone = {(address.version, int(address)) for address in addresses}

    def matches(entry: Entry) -> bool:
        return not gone.isdisjoint(((entry.version, entry.original.src), (entry.version, entry.reply.src)))

    return _forget(matches, {version for version, _ in gone}, translated=False)


def forget_subnet(subnet: IPv4Network | IPv6Network) -> int:
    """Delete every entry from or to an address of *subnet*, which did not exist until now."""
    first, last = int(subnet.network_address), int(subnet.broadcast_address)

    def matches(entry: Entry) -> bool:
        ends = (entry.original.src, entry.original.dst, entry.reply.src)
        return any(first <= address <= last for address in ends)

    return _forget(matches, {subnet.version}, translated=False)


def entries(*, version: int = 4, translated: bool = False) -> list[Entry]:
    """The entries of one IP version in this network namespace; `translated`: only those with a rewritten
    destination.
    """
    with NfnetlinkSocket() as netlink:
        return _list(netlink, version, translated)


def _forget(matches: Callable[[Entry], bool], versions: Collection[int], *, translated: bool) -> int:
    deleted = 0
    if not versions or _count() == 0:
        return 0  # a dump walks every bucket: 15 ms with 65,536 of them
    with NfnetlinkSocket() as netlink:
        for version in sorted(versions):
            for entry in _list(netlink, version, translated):
                if matches(entry):
                    try:
                        netlink.request(_CT_DELETE, 0, FAMILIES[version], entry.key)
                        deleted += 1
                    except FileNotFoundError:
                        continue  # it ended by itself since the dump
    return deleted


def _count() -> int | None:
    """How many entries this network namespace has; None when it cannot be told."""
    try:
        return int(COUNT.read_text())
    except (OSError, ValueError):
        return None


def _list(netlink: NfnetlinkSocket, version: int, translated: bool) -> list[Entry]:
    # A kernel before 5.19 ignores the status filter and sends every entry; the callers match anyway.
    only = (
        nfnetlink.u32(_STATUS, _STATUS_DST_NAT) + nfnetlink.u32(_STATUS_MASK, _STATUS_DST_NAT)
        if translated
        else b""
    )
    found = (parse_entry(payload, version) for payload in netlink.dump(CT_GET, FAMILIES[version], only))
    return [entry for entry in found if entry is not None]


def parse_entry(payload: bytes, version: int = 4) -> Entry | None:
    """The entry in *payload* (from the netfilter header on), None when it is not of *version* or not whole."""
    parts = attrs(payload, 4)
    original = _tuple(parts.get(_TUPLE_ORIG), version)
    reply = _tuple(parts.get(_TUPLE_REPLY), version)
    if original is None or reply is None:
        return None
    key = nested(_TUPLE_ORIG, parts[_TUPLE_ORIG])
    for kind in (_ID, _ZONE):
        if kind in parts:
            key += attr(kind, parts[kind])
    return Entry(original, reply, key, version)


def _tuple(value: bytes | None, version: int) -> Tuple | None:
    if value is None:
        return None
    parts = attrs(value)
    address = parts.get(_TUPLE_IP, b"")
    protocol = parts.get(_TUPLE_PROTO, b"")
    addresses = attrs(address)
    numbers = attrs(protocol)
    src, dst = addresses.get(_IP_SRC[version], b""), addresses.get(_IP_DST[version], b"")
    size = _ADDRESS_BYTES[version]
    if len(src) != size or len(dst) != size or len(numbers.get(_PROTO_NUM, b"")) != 1:
        return None
    return Tuple(
        protocol=numbers[_PROTO_NUM][0],
        src=int.from_bytes(src, "big"),
        dst=int.from_bytes(dst, "big"),
        src_port=_port(numbers.get(_PROTO_SRC_PORT)),
        dst_port=_port(numbers.get(_PROTO_DST_PORT)),
    )


def _port(value: bytes | None) -> int:
    return int(struct.unpack("!H", value)[0]) if value is not None and len(value) == 2 else 0
