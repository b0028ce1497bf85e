"""IPv4 header (RFC 791). After `ipv4_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.checksum cimport checksum_add, checksum_store
from arcbox_net.wire.octets cimport load_u16, store_u16

cdef enum:
    IPV4_HEADER_BYTES = 20
    IPV4_HEADER_BYTES_MAX = 60
    IPV4_TOTAL_LENGTH = 2
    IPV4_IDENTIFICATION = 4
    IPV4_FRAGMENT = 6
    IPV4_TTL = 8
    IPV4_PROTOCOL = 9
    IPV4_CHECKSUM = 10
    IPV4_SOURCE = 12
    IPV4_DESTINATION = 16
    IPV4_DF = 0x4000
    IPV4_MTU_MIN = 68


cdef inline uint32_t ipv4_header_size(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] & 0x0F) * 4


cdef inline uint32_t ipv4_total_length(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_TOTAL_LENGTH)


cdef inline bint ipv4_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header with its options and all that it says follows."""
    if size < IPV4_HEADER_BYTES or p[0] >> 4 != 4:
        return False
    return IPV4_HEADER_BYTES <= ipv4_header_size(p) <= ipv4_total_length(p) <= size


cdef inline bint ipv4_is_fragment(const uint8_t *p) noexcept nogil:
    return load_u16(p + IPV4_FRAGMENT) & 0x3FFF != 0


cdef inline void ipv4_set_checksum(uint8_t *p) noexcept nogil:
    store_u16(p + IPV4_CHECKSUM, 0)
    checksum_store(p + IPV4_CHECKSUM, checksum_add(0, p, ipv4_header_size(p)))


cdef inline void ipv4_write(uint8_t *p, uint8_t protocol, uint32_t payload_size) noexcept nogil:
    """A header without options but for its addresses and checksum: set these, then `ipv4_set_checksum`."""
    p[0] = 0x45
    p[1] = 0
    store_u16(p + IPV4_TOTAL_LENGTH, IPV4_HEADER_BYTES + payload_size)
    store_u16(p + 4, 0)  # RFC 6864: an atomic datagram needs no identification
    store_u16(p + IPV4_FRAGMENT, IPV4_DF)
    p[IPV4_TTL] = 64
    p[IPV4_PROTOCOL] = protocol
    store_u16(p + IPV4_CHECKSUM, 0)
