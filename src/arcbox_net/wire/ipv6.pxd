"""IPv6 header and its extension headers (RFC 8200). After `ipv6_check` every getter is within its bytes."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.wire.octets cimport load_u16, store_u16, store_u32

cdef enum:
    IPV6_HEADER_BYTES = 40
    IPV6_PAYLOAD_LENGTH = 4
    IPV6_NEXT_HEADER = 6
    IPV6_HOP_LIMIT = 7
    IPV6_SOURCE = 8
    IPV6_DESTINATION = 24
    IPV6_EXTENSIONS_MAX = 8
    IPV6_HOP_BY_HOP = 0
    IPV6_FRAGMENT_HEADER = 44
    IPV6_FRAGMENT_BYTES = 8
    IPV6_MTU_MIN = 1280
    IPV6_OPTIONS = 60

cdef enum ipv6_walk:
    IPV6_WALK_OK
    IPV6_WALK_BAD  # a length that leads outside, or more headers than anybody sends
    IPV6_WALK_FRAGMENT


cdef inline uint32_t ipv6_total_length(const uint8_t *p) noexcept nogil:
    return IPV6_HEADER_BYTES + load_u16(p + IPV6_PAYLOAD_LENGTH)


cdef inline bint ipv6_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header and all that it says follows. Jumbograms are not known."""
    return size >= IPV6_HEADER_BYTES and p[0] >> 4 == 6 and ipv6_total_length(p) <= size


cdef inline ipv6_walk ipv6_upper(const uint8_t *p, uint8_t *protocol, uint32_t *offset) noexcept nogil:
    """Find the upper layer behind hop-by-hop and destination options. Other headers are taken for it."""
    cdef uint32_t at = IPV6_HEADER_BYTES, size = ipv6_total_length(p), length
    cdef uint8_t next_header = p[IPV6_NEXT_HEADER]
    cdef int _i
    for _i in range(IPV6_EXTENSIONS_MAX + 1):
        if next_header == IPV6_FRAGMENT_HEADER:
            return IPV6_WALK_FRAGMENT
        if next_header != IPV6_OPTIONS and (next_header != IPV6_HOP_BY_HOP or at != IPV6_HEADER_BYTES):
            protocol[0] = next_header
            offset[0] = at
            return IPV6_WALK_OK
        if size - at < 8:
            return IPV6_WALK_BAD
        length = (<uint32_t>p[at + 1] + 1) * 8
        if length > size - at:
            return IPV6_WALK_BAD
        next_header = p[at]
        at += length
    return IPV6_WALK_BAD


cdef inline void ipv6_write(uint8_t *p, uint8_t next_header, uint32_t payload_size) noexcept nogil:
    """A header but for its addresses."""
    store_u32(p, 0x60000000)
    store_u16(p + IPV6_PAYLOAD_LENGTH, payload_size)
    p[IPV6_NEXT_HEADER] = next_header
    p[IPV6_HOP_LIMIT] = 64
