"""IPv4 header and its options (RFC 791). After `ipv4_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.wire.checksum cimport (
    checksum_add, checksum_apply, checksum_store,
)
from arcbox_net.wire.octets cimport (
    load_u16, load_u16_be, load_u32_be, order_u16, store_u16, store_u16_be, store_u32_be,
)

cdef enum:
    IPV4_HEADER_BYTES = 20
    IPV4_HEADER_BYTES_MAX = 60
    IPV4_TOS = 1
    IPV4_TOTAL_LENGTH = 2
    IPV4_IDENTIFICATION = 4
    IPV4_FRAGMENT = 6
    IPV4_TTL = 8
    IPV4_PROTOCOL = 9
    IPV4_CHECKSUM = 10
    IPV4_SOURCE = 12
    IPV4_DESTINATION = 16
    IPV4_DF = 0x4000
    IPV4_MF = 0x2000
    IPV4_FRAGMENT_OFFSET = 0x1FFF  # in units of eight bytes
    IPV4_MTU_MIN = 68
    IPV4_LENGTH_MAX = 65535
    IPV4_QUOTE_BYTES_MIN = 8  # RFC 792: what an error quotes of a packet behind its header
    IPV4_OPTION_END = 0
    IPV4_OPTION_NOP = 1
    IPV4_OPTION_LSRR = 131
    IPV4_OPTION_SSRR = 137

cdef enum ipv4_options:
    IPV4_OPTIONS_OK
    IPV4_OPTIONS_BAD  # a length that leads outside the header, or does not count itself
    IPV4_OPTIONS_SOURCE_ROUTE


cdef inline uint32_t ipv4_header_size(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] & 0x0F) * 4


cdef inline uint32_t ipv4_total_length(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_TOTAL_LENGTH)


cdef inline bint ipv4_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header with its options and all that it says follows."""
    if size < IPV4_HEADER_BYTES or p[0] >> 4 != 4:
        return False
    return IPV4_HEADER_BYTES <= ipv4_header_size(p) <= ipv4_total_length(p) <= size


cdef inline bint ipv4_quote_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header of a packet that an ICMP error quotes and the ports or the identifier
    behind it. The rest may have been cut off."""
    if size < IPV4_HEADER_BYTES or p[0] >> 4 != 4:
        return False
    if not IPV4_HEADER_BYTES <= ipv4_header_size(p) <= ipv4_total_length(p):
        return False
    return ipv4_header_size(p) + IPV4_QUOTE_BYTES_MIN <= size


cdef inline uint64_t ipv4_sum(const uint8_t *p) noexcept nogil:
    """Of the header, which nearly always has no options and is summed without a loop."""
    cdef uint64_t total = <uint64_t>load_u32_be(p) + load_u32_be(p + 4) + load_u32_be(p + 8)
    total += <uint64_t>load_u32_be(p + 12) + load_u32_be(p + 16)
    if ipv4_header_size(p) == IPV4_HEADER_BYTES:
        return total
    return checksum_add(total, p + IPV4_HEADER_BYTES, ipv4_header_size(p) - IPV4_HEADER_BYTES)


cdef inline bint ipv4_checksum_ok(const uint8_t *p) noexcept nogil:
    return ipv4_sum(p) % 0xFFFF == 0  # folded it is 0xFFFF, as it is not 0


cdef inline ipv4_options ipv4_walk_options(const uint8_t *p) noexcept nogil:
    """What there is among the options. At most 40 steps: each takes a byte of the header at least."""
    cdef uint32_t at = IPV4_HEADER_BYTES, size = ipv4_header_size(p)
    while at < size and p[at] != IPV4_OPTION_END:
        if p[at] == IPV4_OPTION_NOP:
            at += 1
            continue
        if size - at < 2 or p[at + 1] < 2 or p[at + 1] > size - at:
            return IPV4_OPTIONS_BAD
        if p[at] == IPV4_OPTION_LSRR or p[at] == IPV4_OPTION_SSRR:
            return IPV4_OPTIONS_SOURCE_ROUTE
        at += p[at + 1]
    return IPV4_OPTIONS_OK


cdef inline bint ipv4_is_fragment(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_FRAGMENT) & (IPV4_MF | IPV4_FRAGMENT_OFFSET) != 0


cdef inline bint ipv4_more_fragments(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_FRAGMENT) & IPV4_MF != 0


cdef inline bint ipv4_dont_fragment(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_FRAGMENT) & IPV4_DF != 0


cdef inline uint32_t ipv4_fragment_offset(const uint8_t *p) noexcept nogil:
    """In bytes. Only the fragment at 0 has the L4 header."""
    return (<uint32_t>load_u16(p + IPV4_FRAGMENT) & IPV4_FRAGMENT_OFFSET) * 8


cdef inline bint ipv4_fragment_check(const uint8_t *p) noexcept nogil:
    """Whether the packet can be part of another: not empty, in units of eight bytes, and within 65,535."""
    cdef uint32_t size = ipv4_total_length(p) - ipv4_header_size(p)
    if size == 0 or (ipv4_more_fragments(p) and size % 8):
        return False
    return ipv4_fragment_offset(p) <= IPV4_LENGTH_MAX - ipv4_total_length(p)


cdef inline uint16_t ipv4_identification_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + IPV4_IDENTIFICATION)


cdef inline uint8_t ipv4_ttl(const uint8_t *p) noexcept nogil:
    return p[IPV4_TTL]


cdef inline uint8_t ipv4_protocol(const uint8_t *p) noexcept nogil:
    return p[IPV4_PROTOCOL]


cdef inline uint16_t ipv4_checksum_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + IPV4_CHECKSUM)


cdef inline uint32_t ipv4_source_be(const uint8_t *p) noexcept nogil:
    return load_u32_be(p + IPV4_SOURCE)


cdef inline uint32_t ipv4_destination_be(const uint8_t *p) noexcept nogil:
    return load_u32_be(p + IPV4_DESTINATION)


cdef inline void ipv4_set_source_be(uint8_t *p, uint32_t address_be) noexcept nogil:
    store_u32_be(p + IPV4_SOURCE, address_be)


cdef inline void ipv4_set_destination_be(uint8_t *p, uint32_t address_be) noexcept nogil:
    store_u32_be(p + IPV4_DESTINATION, address_be)


cdef inline void ipv4_update_checksum(uint8_t *p, uint32_t delta) noexcept nogil:
    """*delta* is the sum of `checksum_delta16` and the like over what changed."""
    store_u16_be(p + IPV4_CHECKSUM, checksum_apply(ipv4_checksum_be(p), delta))


cdef inline void ipv4_decrement_ttl(uint8_t *p, uint32_t delta) noexcept nogil:
    """Of a packet whose TTL is not 0; its checksum changes for this and for *delta*."""
    p[IPV4_TTL] -= 1
    # The word loses 0x0100, so ~m + m' is the same for every m. Reading the word back would have to wait until the
    # octet is in the cache.
    ipv4_update_checksum(p, delta + order_u16(0xFEFF))


cdef inline void ipv4_set_checksum(uint8_t *p) noexcept nogil:
    store_u16(p + IPV4_CHECKSUM, 0)
    checksum_store(p + IPV4_CHECKSUM, ipv4_sum(p))


cdef inline void ipv4_write(uint8_t *p, uint8_t protocol, uint32_t payload_size) noexcept nogil:
    """A header without options but for its addresses and checksum: set these, then `ipv4_set_checksum`."""
    p[0] = 0x45
    p[IPV4_TOS] = 0
    store_u16(p + IPV4_TOTAL_LENGTH, IPV4_HEADER_BYTES + payload_size)
    store_u16(p + IPV4_IDENTIFICATION, 0)  # RFC 6864: an atomic datagram needs no identification
    store_u16(p + IPV4_FRAGMENT, IPV4_DF)
    p[IPV4_TTL] = 64
    p[IPV4_PROTOCOL] = protocol
    store_u16(p + IPV4_CHECKSUM, 0)
