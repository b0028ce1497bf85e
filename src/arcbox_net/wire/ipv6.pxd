"""IPv6 header and its extension headers (RFC 8200). After `ipv6_check` every getter is within its bytes."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.wire.octets cimport load_u16, load_u32_be, store_u16, store_u32

cdef enum:
    IPV6_HEADER_BYTES = 40
    IPV6_PAYLOAD_LENGTH = 4
    IPV6_NEXT_HEADER = 6
    IPV6_HOP_LIMIT = 7
    IPV6_SOURCE = 8
    IPV6_DESTINATION = 24
    IPV6_ADDRESS_BYTES = 16
    IPV6_EXTENSIONS_MAX = 8
    IPV6_HOP_BY_HOP = 0
    IPV6_FRAGMENT_HEADER = 44
    IPV6_OPTIONS = 60
    IPV6_FRAGMENT_BYTES = 8
    IPV6_FRAGMENT_NEXT_HEADER = 0
    IPV6_FRAGMENT_FIELD = 2
    IPV6_FRAGMENT_IDENTIFICATION = 4
    IPV6_MF = 0x0001
    IPV6_FRAGMENT_OFFSET = 0xFFF8
    IPV6_MTU_MIN = 1280
    IPV6_PAYLOAD_MAX = 65535
    IPV6_QUOTE_BYTES_MIN = 8  # enough for the ports or the identifier

cdef enum ipv6_walk:
    IPV6_WALK_OK
    IPV6_WALK_BAD  # a length that leads outside, or more headers than anybody sends
    IPV6_WALK_FRAGMENT  # the offset is that of the fragment header


cdef inline uint32_t ipv6_total_length(const uint8_t *p) noexcept nogil:
    return IPV6_HEADER_BYTES + load_u16(p + IPV6_PAYLOAD_LENGTH)


cdef inline bint ipv6_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header and all that it says follows. Jumbograms are not known."""
    return size >= IPV6_HEADER_BYTES and p[0] >> 4 == 6 and ipv6_total_length(p) <= size


cdef inline ipv6_walk ipv6_follow(
    const uint8_t *p, uint32_t size, uint8_t *protocol, uint32_t *offset, uint32_t *left
) noexcept nogil:
    """From the header at *offset*, whose number is *protocol*, to the upper layer or to a fragment header.

    *size* is what there is of the packet, and *left* the extension headers that it may still have. Hop-by-hop and
    destination options are followed; other headers are taken for the upper layer.
    """
    cdef uint32_t at = offset[0], length
    cdef uint8_t next_header = protocol[0]
    while (
        next_header == IPV6_OPTIONS
        or next_header == IPV6_FRAGMENT_HEADER
        or (next_header == IPV6_HOP_BY_HOP and at == IPV6_HEADER_BYTES)
    ):
        if left[0] == 0 or size - at < 8:
            return IPV6_WALK_BAD
        left[0] -= 1
        if next_header == IPV6_FRAGMENT_HEADER:
            offset[0] = at
            return IPV6_WALK_FRAGMENT
        length = (<uint32_t>p[at + 1] + 1) * 8
        if length > size - at:
            return IPV6_WALK_BAD
        next_header = p[at]
        at += length
    protocol[0] = next_header
    offset[0] = at
    return IPV6_WALK_OK


cdef inline ipv6_walk ipv6_upper(const uint8_t *p, uint8_t *protocol, uint32_t *offset) noexcept nogil:
    """Find the upper layer of a packet that was checked, behind eight extension headers at most."""
    cdef uint32_t left = IPV6_EXTENSIONS_MAX
    protocol[0] = p[IPV6_NEXT_HEADER]
    offset[0] = IPV6_HEADER_BYTES
    return ipv6_follow(p, ipv6_total_length(p), protocol, offset, &left)


cdef inline ipv6_walk ipv6_upper_of_fragment(const uint8_t *p, uint8_t *protocol, uint32_t *offset) noexcept nogil:
    """As `ipv6_upper`, from the fragment header that it found: RFC 7112 has all headers in the first fragment."""
    cdef uint32_t left = IPV6_EXTENSIONS_MAX, fragment
    protocol[0] = p[IPV6_NEXT_HEADER]
    offset[0] = IPV6_HEADER_BYTES
    if ipv6_follow(p, ipv6_total_length(p), protocol, offset, &left) != IPV6_WALK_FRAGMENT:
        return IPV6_WALK_BAD
    fragment = offset[0]
    protocol[0] = p[fragment + IPV6_FRAGMENT_NEXT_HEADER]
    offset[0] = fragment + IPV6_FRAGMENT_BYTES
    return ipv6_follow(p, ipv6_total_length(p), protocol, offset, &left)


cdef inline bint ipv6_quote_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header of a packet that an ICMPv6 error quotes and eight bytes behind it. The
    rest may have been cut off: follow its headers with *size* bytes at most."""
    return size >= IPV6_HEADER_BYTES + IPV6_QUOTE_BYTES_MIN and p[0] >> 4 == 6


cdef inline uint32_t ipv6_fragment_offset(const uint8_t *extension) noexcept nogil:
    """In bytes, of the fragment header at *extension*."""
    return load_u16(extension + IPV6_FRAGMENT_FIELD) & IPV6_FRAGMENT_OFFSET


cdef inline bint ipv6_more_fragments(const uint8_t *extension) noexcept nogil:
    return load_u16(extension + IPV6_FRAGMENT_FIELD) & IPV6_MF != 0


cdef inline bint ipv6_is_atomic(const uint8_t *extension) noexcept nogil:
    """RFC 6946: a fragment that is the whole packet, and no part of another with its identification."""
    return load_u16(extension + IPV6_FRAGMENT_FIELD) & (IPV6_MF | IPV6_FRAGMENT_OFFSET) == 0


cdef inline bint ipv6_fragment_check(const uint8_t *p, const uint8_t *extension) noexcept nogil:
    """Whether the packet can be part of another: not empty, in units of eight bytes, and within 65,535."""
    cdef uint32_t ahead = <uint32_t>(extension - p) + IPV6_FRAGMENT_BYTES
    cdef uint32_t size = ipv6_total_length(p) - ahead
    if size == 0 or (ipv6_more_fragments(extension) and size % 8):
        return False
    size = load_u16(p + IPV6_PAYLOAD_LENGTH) - IPV6_FRAGMENT_BYTES  # with the headers ahead of the fragment's
    return ipv6_fragment_offset(extension) <= IPV6_PAYLOAD_MAX - size


cdef inline uint32_t ipv6_identification_be(const uint8_t *extension) noexcept nogil:
    return load_u32_be(extension + IPV6_FRAGMENT_IDENTIFICATION)


cdef inline uint8_t ipv6_next_header(const uint8_t *p) noexcept nogil:
    return p[IPV6_NEXT_HEADER]


cdef inline uint8_t ipv6_hop_limit(const uint8_t *p) noexcept nogil:
    return p[IPV6_HOP_LIMIT]


cdef inline void ipv6_decrement_hop_limit(uint8_t *p) noexcept nogil:
    """Of a packet whose hop limit is not 0."""
    p[IPV6_HOP_LIMIT] -= 1


cdef inline void ipv6_write(uint8_t *p, uint8_t next_header, uint32_t payload_size) noexcept nogil:
    """A header but for its addresses."""
    store_u32(p, 0x60000000)
    store_u16(p + IPV6_PAYLOAD_LENGTH, payload_size)
    p[IPV6_NEXT_HEADER] = next_header
    p[IPV6_HOP_LIMIT] = 64
