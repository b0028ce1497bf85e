"""What DHCP reads and sends besides its datagrams: the filter of its raw socket, and ARP probes. No I/O."""

from __future__ import annotations

import struct

from arcbox_net.services.udp_frames import ETHERTYPE_ARP, ETHERTYPE_IP, UDP_PROTOCOL

FRAME_BYTES_MAX = 2200  # of a request that is read whole; a longer one fails its length check
_ARP = struct.Struct("!6s6sHHHBBH6sI6sI")

# Classic BPF (code, jt, jf, k) on the frame: IPv4 UDP to one L4 port, no fragment, for this host, no VLAN tag.
_AD_PKTTYPE, _AD_VLAN_PRESENT = 0xFFFFF004, 0xFFFFF030
_PACKET_OTHERHOST = 3
ACCEPT_NOTHING = ((0x06, 0, 0, 0),)


def filter_for(dst_port: int) -> tuple[tuple[int, int, int, int], ...]:
    """The classic BPF program that passes frames for `unwrap` and nothing else."""
    return (
        (0x20, 0, 0, _AD_VLAN_PRESENT),
        (0x15, 0, 11, 0),
        (0x20, 0, 0, _AD_PKTTYPE),
        (0x15, 9, 0, _PACKET_OTHERHOST),
        (0x28, 0, 0, 12),
        (0x15, 0, 7, ETHERTYPE_IP),
        (0x30, 0, 0, 23),
        (0x15, 0, 5, UDP_PROTOCOL),
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


def arp_probe(src_mac: bytes, ip: int) -> bytes:
    """Ask who has *ip* without claiming an address (RFC 5227)."""
    return _ARP.pack(b"\xff" * 6, src_mac, ETHERTYPE_ARP, 1, ETHERTYPE_IP, 6, 4, 1, src_mac, 0, b"\0" * 6, ip)


def arp_sender(frame: bytes) -> tuple[bytes, int] | None:
    """MAC and IPv4 address that the sender of an ARP frame claims."""
    if len(frame) < _ARP.size:
        return None
    _, _, ethertype, hardware, protocol, hlen, plen, _, mac, ip, _, _ = _ARP.unpack_from(frame)
    if (ethertype, hardware, protocol, hlen, plen) != (ETHERTYPE_ARP, 1, ETHERTYPE_IP, 6, 4) or not ip:
        return None
    return mac, ip
