"""DHCP in Ethernet frames: UDP payloads out of what a raw socket reads, and into what it sends. No I/O."""

from __future__ import annotations

import struct
from typing import NamedTuple

from arcbox_net.services.dhcp.messages import CLIENT_PORT, SERVER_PORT

FRAME_BYTES_MAX = 2200  # of a request that is read whole; a longer one fails its length check
_ETH_IP = struct.Struct("!6s6sHBBHHHBBHII")
_UDP = struct.Struct("!HHHH")
_ARP = struct.Struct("!6s6sHHHBBH6sI6sI")
_ETH_BYTES, _IP_BYTES, _UDP_BYTES = 14, 20, 8
_ETHERTYPE_IP, _ETHERTYPE_ARP = 0x0800, 0x0806
_UDP_PROTOCOL = 17
_TTL = 64

# Classic BPF (code, jt, jf, k) on the frame: IPv4 UDP to one L4 port, no fragment, for this host, no VLAN tag.
_AD_PKTTYPE, _AD_VLAN_PRESENT = 0xFFFFF004, 0xFFFFF030
_PACKET_OTHERHOST = 3
ACCEPT_NOTHING = ((0x06, 0, 0, 0),)


class Datagram(NamedTuple):
    source_mac: bytes
    source_ip: int
    payload: bytes


def filter_for(dst_port: int) -> tuple[tuple[int, int, int, int], ...]:
    """The classic BPF program that passes frames for `unwrap` and nothing else."""
    return (
        (0x20, 0, 0, _AD_VLAN_PRESENT),
        (0x15, 0, 11, 0),
        (0x20, 0, 0, _AD_PKTTYPE),
        (0x15, 9, 0, _PACKET_OTHERHOST),
        (0x28, 0, 0, 12),
        (0x15, 0, 7, _ETHERTYPE_IP),
        (0x30, 0, 0, 23),
        (0x15, 0, 5, _UDP_PROTOCOL),
        (0x28, 0, 0, 20),
        (0x45, 3, 0, 0x3FFF),  # more fragments, or an offset
        (0xB1, 0, 0, 14),  # X = IP header length
        (0x48, 0, 0, 16),
        (0x15, 1, 0, dst_port),
        (0x06, 0, 0, 0),
        (0x06, 0, 0, 0x40000),
    )


def pack_filter(program: tuple[tuple[int, int, int, int], ...]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in program)


def unwrap(frame: bytes, *, dst_port: int = SERVER_PORT) -> Datagram | None:
    """The UDP datagram for *dst_port* in *frame*, None when lengths or types do not fit.

    Checksums are not looked at: a guest's virtio driver leaves them to a device that does not exist.
    """
    if len(frame) < _ETH_BYTES + _IP_BYTES + _UDP_BYTES:
        return None
    _, source_mac, ethertype, version_ihl, _, total, _, fragment, _, protocol, _, source_ip, _ = (
        _ETH_IP.unpack_from(frame)
    )
    header = (version_ihl & 0xF) * 4
    if ethertype != _ETHERTYPE_IP or version_ihl >> 4 != 4 or header < _IP_BYTES or protocol != _UDP_PROTOCOL:
        return None
    if fragment & 0x3FFF or total > len(frame) - _ETH_BYTES or total < header + _UDP_BYTES:
        return None
    start = _ETH_BYTES + header
    _, found_port, size, _ = _UDP.unpack_from(frame, start)
    if found_port != dst_port or not _UDP_BYTES <= size <= total - header:
        return None
    return Datagram(source_mac, source_ip, frame[start + _UDP_BYTES : start + size])


def wrap(
    payload: bytes,
    *,
    src_mac: bytes,
    dst_mac: bytes,
    src_ip: int,
    dst_ip: int,
    src_port: int = SERVER_PORT,
    dst_port: int = CLIENT_PORT,
) -> bytes:
    """The frame that carries *payload*, with both checksums."""
    size = _UDP_BYTES + len(payload)
    total = _IP_BYTES + size
    addresses = (src_ip >> 16) + (src_ip & 0xFFFF) + (dst_ip >> 16) + (dst_ip & 0xFFFF)
    ip_sum = _fold(0x4500 + total + (_TTL << 8 | _UDP_PROTOCOL) + addresses)
    padded = payload if len(payload) % 2 == 0 else payload + b"\0"
    words = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    udp_sum = _fold(words + addresses + _UDP_PROTOCOL + size + src_port + dst_port + size)
    return (
        _ETH_IP.pack(
            dst_mac, src_mac, _ETHERTYPE_IP, 0x45, 0, total, 0, 0, _TTL, _UDP_PROTOCOL, ip_sum, src_ip, dst_ip
        )
        # RFC 768: 0 means "no checksum", so a computed 0 is sent as 0xFFFF.
        + _UDP.pack(src_port, dst_port, size, udp_sum or 0xFFFF)
        + payload
    )


def arp_probe(src_mac: bytes, ip: int) -> bytes:
    """Ask who has *ip* without claiming an address (RFC 5227)."""
    return _ARP.pack(
        b"\xff" * 6, src_mac, _ETHERTYPE_ARP, 1, _ETHERTYPE_IP, 6, 4, 1, src_mac, 0, b"\0" * 6, ip
    )


def arp_sender(frame: bytes) -> tuple[bytes, int] | None:
    """MAC and IPv4 address that the sender of an ARP frame claims."""
    if len(frame) < _ARP.size:
        return None
    _, _, ethertype, hardware, protocol, hlen, plen, _, mac, ip, _, _ = _ARP.unpack_from(frame)
    if (ethertype, hardware, protocol, hlen, plen) != (_ETHERTYPE_ARP, 1, _ETHERTYPE_IP, 6, 4) or not ip:
        return None
    return mac, ip


def _fold(total: int) -> int:
    """The Internet checksum of words that add up to *total*."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
