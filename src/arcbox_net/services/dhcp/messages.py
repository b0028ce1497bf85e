"""DHCPv4 on the wire (RFC 2131, 2132, 3396, 3397, 3442): bytes to Message, and options to bytes. No I/O.

`parse` is given what guests send, so it never raises: it returns a Message or the reason why there is none.
Its contract to the rest: fixed-size options have their size, option 53 is a known client message, `chaddr` is
a unicast MAC, and options split or overloaded into `sname` and `file` have been put together.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

SERVER_PORT = 67
CLIENT_PORT = 68
HEADER_BYTES = 240  # BOOTP header and cookie
MESSAGE_BYTES_MIN = 300  # RFC 1542 section 2.1: what old BOOTP clients and relays expect
DATAGRAM_BYTES_MIN = 576  # RFC 2132 section 9.10: what every client accepts
IP_UDP_BYTES = 28
BROADCAST_FLAG = 0x8000
LEASE_S_INFINITE = 0xFFFFFFFF

BOOTREQUEST, BOOTREPLY = 1, 2
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
CLIENT_MESSAGES = frozenset((DISCOVER, REQUEST, DECLINE, RELEASE, INFORM))

OPT_PAD = 0
OPT_MASK = 1
OPT_ROUTER = 3
OPT_DNS = 6
OPT_HOSTNAME = 12
OPT_DOMAIN = 15
OPT_MTU = 26
OPT_BROADCAST = 28
OPT_REQUESTED_IP = 50
OPT_LEASE_S = 51
OPT_OVERLOAD = 52
OPT_TYPE = 53
OPT_SERVER_ID = 54
OPT_PARAMETERS = 55
OPT_MESSAGE = 56
OPT_SIZE_MAX = 57
OPT_T1 = 58
OPT_T2 = 59
OPT_CLIENT_ID = 61
OPT_RELAY = 82
OPT_SEARCH = 119
OPT_ROUTES = 121
OPT_END = 255

_HEADER = struct.Struct("!BBBBIHHIIII16s64s128sI")
_COOKIE = 0x63825363
_U32 = struct.Struct("!I")
_EXACT_SIZES = {
    OPT_REQUESTED_IP: 4,
    OPT_LEASE_S: 4,
    OPT_OVERLOAD: 1,
    OPT_TYPE: 1,
    OPT_SERVER_ID: 4,
    OPT_SIZE_MAX: 2,
}
CLIENT_ID_BYTES_MAX = 255  # RFC 2132 section 9.14: one option, which is echoed and kept with the lease


class DropReason(enum.StrEnum):
    """Why a datagram got no answer: the operator's manual of the DHCP server."""

    SHORT = "short"  # less than header and cookie
    LONG = "long"  # more than the network's MTU carries
    NOT_REQUEST = "not-request"  # op is not BOOTREQUEST: a guest that plays server
    COOKIE = "bad-cookie"
    HARDWARE = "bad-hardware"  # not Ethernet, or a chaddr that is no unicast MAC
    OPTION_OVERRUN = "option-overrun"
    OPTION_SIZE = "option-size"
    NO_END = "no-end"
    NO_TYPE = "no-type"  # plain BOOTP
    BAD_TYPE = "bad-type"
    SERVER_MESSAGE = "server-message"  # OFFER, ACK or NAK from a guest
    SPOOFED = "spoofed"  # chaddr is not the frame's source MAC
    RELAYED = "relayed"  # a relay behind a guest port, or one outside the subnet
    RATE = "rate"
    OTHER_SERVER = "other-server"
    BAD_ADDRESS = "bad-address"  # ciaddr or requested address makes no sense for the message
    UNKNOWN_CLIENT = "unknown-client"
    POOL_EXHAUSTED = "pool-exhausted"
    PORT_LIMIT = "port-limit"
    DECLINED = "declined"  # a client refuses the one address that is fixed for it
    NOT_DURABLE = "not-durable"  # the state file cannot be written
    BUSY = "busy"  # too many answers wait for the disk
    DATAGRAM = "bad-datagram"  # IP or UDP lengths that do not fit the frame
    SEND = "send-failed"
    CONFLICT = "conflict"  # the address to offer answered a probe


@dataclasses.dataclass(slots=True)
class Message:
    """A client's message. Addresses are integers, as compared and stored; `options` are whole payloads."""

    op: int
    xid: int
    secs: int
    flags: int
    ciaddr: int
    yiaddr: int
    siaddr: int
    giaddr: int
    chaddr: bytes
    kind: int
    options: dict[int, bytes]

    def address(self, option: int) -> int:
        """The address in a four-byte option, 0 when absent."""
        payload = self.options.get(option)
        return 0 if payload is None else int(_U32.unpack(payload)[0])


def parse(
    payload: bytes, *, kinds: frozenset[int] = CLIENT_MESSAGES, op: int = BOOTREQUEST
) -> Message | DropReason:
    """The message in a UDP payload, or why it is none. The defaults are a server's view."""
    if len(payload) < HEADER_BYTES:
        return DropReason.SHORT
    (
        found_op, htype, hlen, _hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, hardware, sname, file, cookie,
    ) = _HEADER.unpack_from(payload)  # fmt: skip
    if cookie != _COOKIE:
        return DropReason.COOKIE
    if found_op != op:
        return DropReason.NOT_REQUEST
    chaddr = hardware[:6]
    if htype != 1 or hlen != 6 or chaddr[0] & 1 or chaddr == b"\0\0\0\0\0\0":
        return DropReason.HARDWARE
    options: dict[int, bytes] = {}
    bad = _read_options(payload, HEADER_BYTES, options)
    if bad is None and OPT_OVERLOAD in options:
        bad = _read_overload(options, sname, file)
    if bad is not None:
        return bad
    kind = options.get(OPT_TYPE)
    if kind is None:
        return DropReason.NO_TYPE
    if len(kind) != 1:
        return DropReason.BAD_TYPE
    if kind[0] not in kinds:
        return DropReason.SERVER_MESSAGE if OFFER <= kind[0] <= NAK else DropReason.BAD_TYPE
    for number, size in _EXACT_SIZES.items():
        if number in options and len(options[number]) != size:
            return DropReason.OPTION_SIZE
    if len(options.get(OPT_CLIENT_ID, b"")) > CLIENT_ID_BYTES_MAX:
        return DropReason.OPTION_SIZE
    return Message(found_op, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, kind[0], options)


def _read_options(area: bytes, offset: int, options: dict[int, bytes]) -> DropReason | None:
    """Add the options of *area* to *options*; the parts of one that comes again are joined (RFC 3396)."""
    size = len(area)
    while offset < size:
        number = area[offset]
        if number == OPT_END:
            return None
        offset += 1
        if number == OPT_PAD:
            continue
        if offset >= size:
            return DropReason.OPTION_OVERRUN
        length = area[offset]
        offset += 1
        if length > size - offset:
            return DropReason.OPTION_OVERRUN
        if length:  # an empty option says nothing: as if it were absent
            part = area[offset : offset + length]
            options[number] = options[number] + part if number in options else part
            offset += length
    return DropReason.NO_END


def _read_overload(options: dict[int, bytes], sname: bytes, file: bytes) -> DropReason | None:
    """Read `file` and then `sname` as options, once: an option 52 found there says nothing."""
    overload = options[OPT_OVERLOAD]
    if len(overload) != 1 or not 1 <= overload[0] <= 3:
        return DropReason.OPTION_SIZE
    bad = _read_options(file, 0, options) if overload[0] & 1 else None
    if bad is None and overload[0] & 2:
        bad = _read_options(sname, 0, options)
    options[OPT_OVERLOAD] = overload
    return bad


def build(
    kind_options: bytes,
    *,
    op: int,
    xid: int,
    chaddr: bytes,
    secs: int = 0,
    flags: int = 0,
    ciaddr: int = 0,
    yiaddr: int = 0,
    siaddr: int = 0,
    giaddr: int = 0,
) -> bytes:
    """A message of *kind_options* (encoded, option 53 first), closed and padded. Every other byte is zero."""
    header = _HEADER.pack(
        op, 1, 6, 0, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, b"", b"", _COOKIE
    )  # fmt: skip
    # RFC 2132 section 3.2: the end option is one byte, without a length.
    return (header + kind_options + b"\xff").ljust(MESSAGE_BYTES_MIN, b"\0")


def encode_option(number: int, payload: bytes) -> bytes:
    """The option on the wire; a payload over 255 bytes is split (RFC 3396). Empty for an empty payload."""
    if len(payload) <= 255:
        return bytes((number, len(payload))) + payload if payload else b""
    return b"".join(encode_option(number, payload[i : i + 255]) for i in range(0, len(payload), 255))


def encode_u32(number: int, value: int) -> bytes:
    return bytes((number, 4)) + _U32.pack(value)


def addresses_payload(addresses: Iterable[IPv4Address]) -> bytes:
    return b"".join(address.packed for address in addresses)


def search_payload(domains: Sequence[str]) -> bytes:
    """Option 119 (RFC 3397): names as in DNS, with compression pointers into the option itself."""
    found = bytearray()
    known: dict[tuple[str, ...], int] = {}
    for domain in domains:
        labels = tuple(domain.rstrip(".").lower().split("."))
        while labels:
            if labels in known:
                found += struct.pack("!H", 0xC000 | known[labels])
                break
            if len(found) < 0x4000:
                known[labels] = len(found)
            encoded = labels[0].encode("ascii")
            found += bytes((len(encoded),)) + encoded
            labels = labels[1:]
        else:
            found.append(0)
    return bytes(found)


def routes_payload(routes: Iterable[tuple[IPv4Network, IPv4Address]]) -> bytes:
    """Option 121 (RFC 3442): prefix length, the significant bytes of the destination, the router."""
    return b"".join(
        bytes((network.prefixlen,))
        + network.network_address.packed[: (network.prefixlen + 7) // 8]
        + router.packed
        for network, router in routes
    )


def decode_search(payload: bytes) -> list[str]:
    """The domains of option 119. What is malformed ends the list: a client reads it from any server."""
    found: list[str] = []
    offset = 0
    while offset < len(payload) and len(found) < 64:
        labels, offset = _name_at(payload, offset)
        if not labels:
            break
        found.append(".".join(labels))
    return found


def _name_at(payload: bytes, offset: int) -> tuple[list[str], int]:
    labels: list[str] = []
    after = 0
    for _ in range(len(payload)):
        if offset >= len(payload):
            return [], len(payload)
        length = payload[offset]
        if length == 0:
            return labels, after or offset + 1
        if length & 0xC0:
            if length & 0xC0 != 0xC0 or offset + 1 >= len(payload):
                return [], len(payload)
            after = after or offset + 2
            offset = (length & 0x3F) << 8 | payload[offset + 1]
            continue
        labels.append(payload[offset + 1 : offset + 1 + length].decode("ascii", "replace"))
        offset += 1 + length
        if sum(map(len, labels)) + len(labels) > 255:
            return [], len(payload)
    return [], len(payload)


def decode_routes(payload: bytes) -> list[tuple[IPv4Network, IPv4Address]]:
    """The routes of option 121; what is malformed ends the list."""
    found: list[tuple[IPv4Network, IPv4Address]] = []
    offset = 0
    while offset < len(payload):
        prefix = payload[offset]
        size = (prefix + 7) // 8
        if prefix > 32 or size + 5 > len(payload) - offset:
            break
        destination = payload[offset + 1 : offset + 1 + size].ljust(4, b"\0")
        router = payload[offset + 1 + size : offset + 5 + size]
        found.append((IPv4Network((destination, prefix), strict=False), IPv4Address(router)))
        offset += 5 + size
    return found
