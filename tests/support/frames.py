"""IPv4 packets for the dataplane, built byte by byte, and read back by scapy with their checksums verified."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from tests.support.packets import ICMP, IP, TCP, UDP, Packet, verified
from tests.support.segments import checksum

ICMP_ECHO, ICMP_ECHO_REPLY = 8, 0
DONT_FRAGMENT, MORE_FRAGMENTS = 0x4000, 0x2000
IP_HEADER_BYTES = 20
ACK, FIN, PSH, RST, SYN = 0x10, 0x01, 0x08, 0x04, 0x02


class Endpoint(NamedTuple):
    """An address and a TCP or UDP port, or the identifier of an ICMP query."""

    ip: str
    number: int


def ipv4(
    src: str,
    dst: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    identification: int = 0,
    fragment: int = DONT_FRAGMENT,
    options: bytes = b"",
    padding: bytes = b"",
    **broken: int,
) -> bytearray:
    """An IPv4 packet. *fragment* is flags and offset in units of 8 bytes; *padding* follows the packet.

    *broken* sets `version`, `ihl`, `total` or `header_checksum` to what they should not be.
    """
    ihl = broken.get("ihl", (IP_HEADER_BYTES + len(options)) // 4)
    total = broken.get("total", IP_HEADER_BYTES + len(options) + len(payload))
    header = bytearray(
        struct.pack(
            "!BBHHHBBH",
            *(broken.get("version", 4) << 4 | ihl, 0, total, identification, fragment, ttl, protocol, 0),
        )
    )
    header += IPv4Address(src).packed + IPv4Address(dst).packed + options
    struct.pack_into("!H", header, 10, broken.get("header_checksum", _sum(header)))
    return header + payload + padding


def udp(
    source: tuple[str, int],
    destination: tuple[str, int],
    payload: bytes = b"payload",
    *,
    sum_: int | None = None,
    **ip: Any,
) -> bytearray:
    """A UDP packet; *sum_* 0 leaves the checksum out."""
    datagram = bytearray(struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)) + payload
    right = _l4_sum(source[0], destination[0], socket.IPPROTO_UDP, datagram) or 0xFFFF
    struct.pack_into("!H", datagram, 6, right if sum_ is None else sum_)
    return ipv4(source[0], destination[0], socket.IPPROTO_UDP, bytes(datagram), **ip)


def tcp(
    source: tuple[str, int],
    destination: tuple[str, int],
    flags: int = SYN,
    payload: bytes = b"",
    *,
    seq: int = 1000,
    ack: int = 0,
    window: int = 64_000,
    options: bytes = b"",
    doff: int | None = None,
    **ip: Any,
) -> bytearray:
    words = 5 + len(options) // 4 if doff is None else doff
    segment = bytearray(
        struct.pack("!HHIIBBHHH", source[1], destination[1], seq, ack, words << 4, flags, window, 0, 0)
    )
    segment += options + payload
    struct.pack_into("!H", segment, 16, _l4_sum(source[0], destination[0], socket.IPPROTO_TCP, segment))
    return ipv4(source[0], destination[0], socket.IPPROTO_TCP, bytes(segment), **ip)


def echo(
    src: str, dst: str, identifier: int, payload: bytes = b"payload", *, kind: int = ICMP_ECHO, **ip: Any
) -> bytearray:
    """An ICMP echo request, or the reply with `kind=ICMP_ECHO_REPLY`."""
    return icmp(src, dst, kind, 0, identifier << 16 | 1, payload, **ip)


def icmp(
    src: str,
    dst: str,
    kind: int,
    code: int,
    rest: int = 0,
    payload: bytes = b"",
    *,
    sum_: int | None = None,
    **ip: Any,
) -> bytearray:
    """An ICMP message; *rest* are bytes 4 to 7, for an error *payload* is the packet that it quotes."""
    message = bytearray(struct.pack("!BBHI", kind, code, 0, rest)) + payload
    struct.pack_into("!H", message, 2, _sum(message) if sum_ is None else sum_)
    return ipv4(src, dst, socket.IPPROTO_ICMP, bytes(message), **ip)


def fragments(packet: bytes | bytearray, cuts: Sequence[int], *, identification: int = 7) -> list[bytearray]:
    """*packet* (without options) in fragments that begin at 0 and at each of *cuts*, multiples of 8."""
    payload = bytes(packet[IP_HEADER_BYTES:])
    src, dst = (socket.inet_ntoa(bytes(packet[at : at + 4])) for at in (12, 16))
    starts = [0, *cuts]
    ends = [*cuts, len(payload)]
    return [
        ipv4(
            src,
            dst,
            packet[9],
            payload[start:end],
            ttl=packet[8],
            identification=identification,
            fragment=start // 8 | (MORE_FRAGMENTS if end < len(payload) else 0),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def read(packet: bytes | bytearray) -> Packet:
    """*packet* as scapy reads it; its lengths and checksums hold."""
    return verified(bytes(packet))


def ends(packet: bytes | bytearray | Packet) -> tuple[Endpoint, Endpoint]:
    """Source and destination of a packet; an ICMP query has its identifier at both."""
    seen = packet if isinstance(packet, Packet) else IP(bytes(packet))
    if ICMP in seen:
        return Endpoint(seen.src, seen[ICMP].id), Endpoint(seen.dst, seen[ICMP].id)
    l4 = seen[TCP] if TCP in seen else seen[UDP]
    return Endpoint(seen.src, l4.sport), Endpoint(seen.dst, l4.dport)


def _sum(body: bytes | bytearray) -> int:
    return int.from_bytes(checksum(body), "big")


def _l4_sum(src: str, dst: str, protocol: int, body: bytes | bytearray) -> int:
    pseudo = IPv4Address(src).packed + IPv4Address(dst).packed + struct.pack("!HH", protocol, len(body))
    return _sum(pseudo + body)
