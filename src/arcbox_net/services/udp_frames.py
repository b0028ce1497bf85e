"""UDP datagrams in IPv4 in Ethernet frames: out of frames that came whole, and into frames. No I/O."""

from __future__ import annotations

import struct
from typing import NamedTuple

from arcbox_net.wire.checksums import checksum

ETH_BYTES = 14
ETHERTYPE_IP, ETHERTYPE_ARP = 0x0800, 0x0806
UDP_PROTOCOL = 17
_ETH_IP = struct.Struct("!6s6sHBBHHHBBHII")
_UDP = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!IIHH")
_IP_BYTES, _UDP_BYTES = 20, 8
_TTL = 64


class Datagram(NamedTuple):
    src_mac: bytes
    dst_mac: bytes
    src_ip: int
    dst_ip: int
    src_port: int
    dst_port: int
    payload: bytes

    def answer(self, payload: bytes) -> Datagram:
        """*payload*, from where this went to, to where it came from."""
        return Datagram(
            self.dst_mac, self.src_mac, self.dst_ip, self.src_ip, self.dst_port, self.src_port, payload
        )


def unwrap(frame: bytes, *, dst_port: int | None = None, verified: bool = False) -> Datagram | None:
    """The UDP datagram in *frame*, for *dst_port* if that is given; None when lengths or types do not fit.

    *verified*: nor when a checksum is wrong. That is not to be asked of what a kernel's socket reads: a guest's virtio
    driver leaves checksums to a device that does not exist.
    """
    if len(frame) < ETH_BYTES + _IP_BYTES + _UDP_BYTES:
        return None
    dst_mac, src_mac, ethertype, version_ihl, _, total, _, fragment, _, protocol, _, src_ip, dst_ip = (
        _ETH_IP.unpack_from(frame)
    )
    header = (version_ihl & 0xF) * 4
    if ethertype != ETHERTYPE_IP or version_ihl >> 4 != 4 or header < _IP_BYTES or protocol != UDP_PROTOCOL:
        return None
    if fragment & 0x3FFF or total > len(frame) - ETH_BYTES or total < header + _UDP_BYTES:
        return None
    start = ETH_BYTES + header
    src_port, found_port, size, udp_sum = _UDP.unpack_from(frame, start)
    if dst_port not in (None, found_port) or not _UDP_BYTES <= size <= total - header:
        return None
    if verified:
        udp = frame[start : start + size]
        # RFC 768: 0 says that the sender made no checksum.
        if checksum(frame[ETH_BYTES:start]) or (udp_sum and _udp_checksum(src_ip, dst_ip, udp)):
            return None
    payload = frame[start + _UDP_BYTES : start + size]
    return Datagram(src_mac, dst_mac, src_ip, dst_ip, src_port, found_port, payload)


def wrap(datagram: Datagram) -> bytes:
    """The frame that carries *datagram*, with both checksums."""
    src_mac, dst_mac, src_ip, dst_ip, src_port, dst_port, payload = datagram
    size = _UDP_BYTES + len(payload)
    head = (dst_mac, src_mac, ETHERTYPE_IP, 0x45, 0, _IP_BYTES + size, 0, 0, _TTL, UDP_PROTOCOL)
    ip_sum = checksum(_ETH_IP.pack(*head, 0, src_ip, dst_ip)[ETH_BYTES:])
    udp_sum = _udp_checksum(src_ip, dst_ip, _UDP.pack(src_port, dst_port, size, 0) + payload)
    # RFC 768: 0 means "no checksum", so a computed 0 is sent as 0xFFFF.
    udp = _UDP.pack(src_port, dst_port, size, udp_sum or 0xFFFF) + payload
    return _ETH_IP.pack(*head, ip_sum, src_ip, dst_ip) + udp


def _udp_checksum(src_ip: int, dst_ip: int, udp: bytes) -> int:
    return checksum(_PSEUDO.pack(src_ip, dst_ip, UDP_PROTOCOL, len(udp)) + udp)
