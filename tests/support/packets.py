"""Packets as a door sees them: a virtio_net_hdr of 12 bytes and an IP packet, built and read by scapy."""

from __future__ import annotations

import logging
import struct
from typing import Any

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)

from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.packet import Packet  # noqa: E402

GUEST4, GUEST6 = "192.0.2.2", "fd00:db8:1::2"
HEADER_BYTES = 12
NEEDS_CSUM, DATA_VALID = 1, 2

__all__ = ["ICMP", "IP", "TCP", "UDP", "IPv6", "Packet"]


def header(
    flags: int = 0, gso_type: int = 0, gso_size: int = 0, csum_start: int = 0, csum_offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHHH", flags, gso_type, 0, gso_size, csum_start, csum_offset, 0)


def ip(dst: str, src: str | None = None, **fields: Any) -> Packet:
    """An IP header towards *dst*, from the guest of its version."""
    if ":" in dst:
        return IPv6(src=src or GUEST6, dst=dst, **fields)
    return IP(src=src or GUEST4, dst=dst, **fields)


def frame(packet: Packet | bytes, **virtio: int) -> bytes:
    return header(**virtio) + bytes(packet)


def tcp(dst: str, dport: int, sport: int = 40000, flags: str = "S", **fields: Any) -> bytes:
    """A frame with one TCP segment."""
    return frame(ip(dst) / TCP(sport=sport, dport=dport, flags=flags, **fields))


def read(answer: bytes) -> Packet:
    """The packet that the door sent, with its checksums verified."""
    return verified(answer[HEADER_BYTES:])


def verified(body: bytes) -> Packet:
    """The IP packet *body*. Its lengths and checksums are as scapy would make them; a UDP checksum may be left out,
    and a fragment has none that holds.
    """
    packet: Packet = (IPv6 if body[0] >> 4 == 6 else IP)(body)
    rebuilt = packet.copy()
    fragment = False
    if IP in rebuilt:
        del rebuilt[IP].chksum, rebuilt[IP].len
        fragment = bool(packet[IP].frag or packet[IP].flags.MF)
    for layer in () if fragment else (TCP, UDP, ICMP):
        if layer in rebuilt:
            if rebuilt[layer].chksum != 0 or layer is not UDP:
                del rebuilt[layer].chksum
            break
    if packet.haslayer("ICMPv6DestUnreach"):
        del rebuilt["ICMPv6DestUnreach"].cksum
    assert bytes(rebuilt) == body, f"checksums or lengths of {packet!r}"
    return packet
