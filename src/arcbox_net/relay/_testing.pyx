"""What tests need of compiled code that has no Python face."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from arcbox_net.relay.door cimport DOOR_FRAME_BYTES, IPV4_DOOR, door_packet, door_parse
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold

from arcbox_net.relay.egress import DOOR_COUNTERS as _COUNTERS


def parse(bytes frame):
    """What `door_parse` says of *frame*: the reason to drop it, or where its parts are, counted from its start."""
    cdef uint8_t copy[DOOR_FRAME_BYTES]
    cdef door_packet packet
    cdef int reason
    if len(frame) > DOOR_FRAME_BYTES:
        raise ValueError(f"{len(frame)} bytes: a frame has at most {DOOR_FRAME_BYTES}")
    memcpy(copy, <const uint8_t *>frame, len(frame))
    reason = door_parse(copy, len(frame), &packet)
    if reason:
        return _COUNTERS[reason]
    return {
        "version": 4 if packet.version == IPV4_DOOR else 6,
        "protocol": packet.protocol,
        "ip": packet.ip - copy,
        "ip_size": packet.ip_size,
        "l4": packet.l4 - copy,
        "l4_size": packet.l4_size,
        "payload": packet.payload - copy,
        "payload_size": packet.payload_size,
        "src": bytes(packet.src[:16]),
        "dst": bytes(packet.dst[:16]),
        "src_port": packet.src_port,
        "dst_port": packet.dst_port,
    }


def checksum(bytes packet):
    """The folded sum of *packet*."""
    return checksum_fold(checksum_add(0, <const uint8_t *>packet, len(packet)))
