"""`struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6): what a packet still needs, ahead of it on a TUN.

Fields are in the machine's own order, as the TUN driver has them unless told otherwise.
"""

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    VIRTIO_NET_HEADER_BYTES = 12
    VIRTIO_NEEDS_CSUM = 1  # the checksum field holds the pseudo header's sum, the rest is to be added
    VIRTIO_DATA_VALID = 2  # the checksum was verified
    VIRTIO_GSO_NONE = 0
    VIRTIO_GSO_TCPV4 = 1
    VIRTIO_GSO_TCPV6 = 4
    VIRTIO_GSO_UDP_L4 = 5
    VIRTIO_GSO_ECN = 0x80
    VIRTIO_UDP_SEGMENTS_MAX = 128  # Linux' UDP_MAX_SEGMENTS: no socket makes more of one packet

cdef packed struct virtio_net_header:
    uint8_t flags
    uint8_t gso_type
    uint16_t header_length
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset
    uint16_t num_buffers


cdef inline bint virtio_check(
    const virtio_net_header *header, size_t l4_offset, size_t csum_offset, size_t size
) noexcept nogil:
    """Whether the header fits a packet of *size* bytes with its L4 header and checksum field at these places."""
    if header.flags & ~(VIRTIO_NEEDS_CSUM | VIRTIO_DATA_VALID):
        return False
    if header.flags & VIRTIO_NEEDS_CSUM:
        if header.csum_start != l4_offset or header.csum_offset != csum_offset:
            return False
        if size < l4_offset or size - l4_offset < csum_offset + 2:
            return False
    elif header.gso_type != VIRTIO_GSO_NONE:
        return False  # each segment gets a checksum of its own, so somebody has yet to compute them
    return header.gso_type == VIRTIO_GSO_NONE or header.gso_size > 0
