"""`struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6): what a packet still needs, ahead of it on a TUN.

Fields are in the machine's own order, as the TUN driver has them unless told otherwise. Guests write them: the
header is copied once, and the copy is checked.
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


cdef inline bint virtio_gso_check(const virtio_net_header *header) noexcept nogil:
    """Whether the kind of super-frame is known and says how large its segments are."""
    cdef uint8_t kind = header.gso_type & <uint8_t>~VIRTIO_GSO_ECN
    if header.gso_type == VIRTIO_GSO_NONE:
        return True
    if kind != VIRTIO_GSO_TCPV4 and kind != VIRTIO_GSO_TCPV6 and header.gso_type != VIRTIO_GSO_UDP_L4:
        return False
    # Each segment gets a checksum of its own, so somebody has yet to compute them.
    return header.gso_size > 0 and header.flags & VIRTIO_NEEDS_CSUM != 0


cdef inline bint virtio_shape_check(const virtio_net_header *header, size_t size) noexcept nogil:
    """Whether the header fits some frame of *size* bytes behind it: all that it says lies within these."""
    if header.flags & ~(VIRTIO_NEEDS_CSUM | VIRTIO_DATA_VALID) or header.header_length > size:
        return False
    if header.flags & VIRTIO_NEEDS_CSUM:
        if <size_t>header.csum_offset + 2 > size or header.csum_start > size - header.csum_offset - 2:
            return False
    return virtio_gso_check(header)


cdef inline bint virtio_check(
    const virtio_net_header *header, size_t l4_offset, size_t csum_offset, size_t size
) noexcept nogil:
    """Whether the header fits a packet of *size* bytes with its L4 header and checksum field at these places."""
    if header.flags & VIRTIO_NEEDS_CSUM:
        if header.csum_start != l4_offset or header.csum_offset != csum_offset:
            return False
    return virtio_shape_check(header, size)
