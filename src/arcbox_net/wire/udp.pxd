"""UDP header (RFC 768). After `udp_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.octets cimport load_u16, load_u16_be, store_u16_be

cdef enum:
    PROTOCOL_UDP = 17
    UDP_HEADER_BYTES = 8
    UDP_SOURCE_PORT = 0
    UDP_DESTINATION_PORT = 2
    UDP_LENGTH = 4
    UDP_CHECKSUM = 6


cdef inline uint32_t udp_length(const uint8_t *p) noexcept nogil:
    """Header and payload."""
    return load_u16(p + UDP_LENGTH)


cdef inline bint udp_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header and all that it says follows."""
    return size >= UDP_HEADER_BYTES and UDP_HEADER_BYTES <= udp_length(p) <= size


cdef inline uint16_t udp_source_port_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + UDP_SOURCE_PORT)


cdef inline uint16_t udp_destination_port_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + UDP_DESTINATION_PORT)


cdef inline uint16_t udp_checksum_be(const uint8_t *p) noexcept nogil:
    """0 where the sender computed none, which only IPv4 allows (RFC 8200 8.1)."""
    return load_u16_be(p + UDP_CHECKSUM)


cdef inline void udp_set_checksum_be(uint8_t *p, uint16_t checksum_be) noexcept nogil:
    store_u16_be(p + UDP_CHECKSUM, checksum_be)
