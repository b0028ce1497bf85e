"""Frames that leave work to others, as guests and kernels send them, and what a port gets of them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.support.packets import verified

VNET_BYTES = 12
ETHERNET_BYTES = 14
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_ECN = 0, 1, 4, 5, 0x80
TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
MSS = 1428


def payload(size: int) -> bytes:
    """Bytes of which no two stretches are alike."""
    return b"".join(struct.pack("!I", i * 2654435761 % 2**32) for i in range(size // 4 + 1))[:size]


def tcp(data: bytes, *, v6: bool = False, ip: dict[str, Any] | None = None, **fields: Any) -> Packet:
    """An Ethernet frame with a TCP segment that has timestamps."""
    fields = {
        "sport": 40000,
        "dport": 80,
        "seq": 1000,
        "ack": 77,
        "flags": "A",
        "options": TIMESTAMPS,
        **fields,
    }
    return _ether() / _ip(v6, ip or {}) / TCP(**fields) / Raw(data)


def udp(data: bytes, *, v6: bool = False, ip: dict[str, Any] | None = None, **fields: Any) -> Packet:
    return _ether() / _ip(v6, ip or {}) / UDP(**{"sport": 40000, "dport": 443, **fields}) / Raw(data)


def plain(packet: Packet) -> bytes:
    """The frame with its checksums, behind a header that says so."""
    return bytes(VNET_BYTES) + bytes(packet)


def partial(packet: Packet, gso_type: int = GSO_NONE, gso_size: int = 0, **forged: int) -> bytes:
    """The frame as a guest sends it that leaves its L4 checksum, and perhaps cutting it, to others.

    *forged* sets fields of the virtio-net header to what they should not be.
    """
    octets = bytearray(bytes(packet))
    l4, field = places(packet)
    total = _pseudo_sum(octets, l4)
    octets[l4 + field : l4 + field + 2] = struct.pack("!H", total)
    fields = {
        "flags": NEEDS_CSUM,
        "gso_type": gso_type,
        "header_length": l4 + len(packet[_l4(packet)]) - len(packet[_l4(packet)].payload),
        "gso_size": gso_size,
        "csum_start": l4,
        "csum_offset": field,
        "num_buffers": 0,
        **forged,
    }
    return struct.pack("=BBHHHHH", *fields.values()) + bytes(octets)


def places(packet: Packet) -> tuple[int, int]:
    """Where the L4 header begins in the frame, and where its checksum is in that header."""
    layer = _l4(packet)
    return len(packet) - len(packet[layer]), 16 if layer is TCP else 6


def super_tcp(data: bytes, mss: int = MSS, *, v6: bool = False, **fields: Any) -> bytes:
    return partial(tcp(data, v6=v6, **fields), GSO_TCPV6 if v6 else GSO_TCPV4, mss)


def super_udp(data: bytes, size: int, *, v6: bool = False) -> bytes:
    """Datagrams of *size* bytes, and what is left in one more."""
    return partial(udp(data, v6=v6), GSO_UDP, size)


def read(frame: bytes) -> Packet:
    """The Ethernet frame behind its virtio-net header, which leaves nothing to others; its checksums are right."""
    assert frame[:VNET_BYTES] == bytes(VNET_BYTES)
    packet = Ether(frame[VNET_BYTES:])
    verified(bytes(packet.payload))
    return packet


def read_all(frames: Iterable[bytes]) -> list[Packet]:
    return [read(frame) for frame in frames]


def data_of(packet: Packet) -> bytes:
    return bytes(packet[_l4(packet)].payload)


def payload_sizes(frames: Iterable[bytes]) -> list[int]:
    """Of each frame behind its virtio-net header."""
    return [len(data_of(Ether(frame[VNET_BYTES:]))) for frame in frames]


def interleaved(flows: Iterable[list[bytes]], order: random.Random) -> list[bytes]:
    """All frames, each flow's in its order."""
    flows = list(flows)
    turns = [i for i, flow in enumerate(flows) for _ in flow]
    order.shuffle(turns)
    places = [iter(flow) for flow in flows]
    return [next(places[i]) for i in turns]


def keeps_flows(frames: list[bytes], flows: Iterable[list[bytes]]) -> bool:
    """Whether *frames* are all of the flows' and nothing else, each flow's in its order."""
    flows = list(flows)
    whole = all([frame for frame in frames if frame in flow] == flow for flow in flows)
    return whole and len(frames) == sum(map(len, flows))


def _ether() -> Packet:
    return Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def _ip(v6: bool, fields: dict[str, Any]) -> Packet:
    if v6:
        return IPv6(**{"src": "fd00::1", "dst": "fd00::2", **fields})
    return IP(**{"src": "10.0.0.1", "dst": "10.0.0.2", "id": 500, "flags": "DF", **fields})


def _l4(packet: Packet) -> type[Packet]:
    return TCP if TCP in packet else UDP


def _pseudo_sum(octets: bytes, l4: int) -> int:
    """The pseudo header's sum, not complemented."""
    ip = octets[ETHERNET_BYTES:]
    addresses, protocol = (ip[8:40], ip[6]) if ip[0] >> 4 == 6 else (ip[12:20], ip[9])
    if ip[0] >> 4 == 6 and l4 > ETHERNET_BYTES + 40:
        protocol = ip[40]  # of one extension header
    words = addresses + struct.pack("!II", protocol, len(octets) - l4)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
