"""TCP header (RFC 9293). After `tcp_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    PROTOCOL_TCP = 6
    TCP_HEADER_BYTES = 20
    TCP_HEADER_BYTES_MAX = 60
    TCP_SOURCE_PORT = 0
    TCP_DESTINATION_PORT = 2
    TCP_SEQUENCE = 4
    TCP_ACKNOWLEDGMENT = 8
    TCP_DATA_OFFSET = 12
    TCP_FLAGS = 13
    TCP_WINDOW = 14
    TCP_CHECKSUM = 16
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_URG = 0x20


cdef inline uint32_t tcp_header_size(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[TCP_DATA_OFFSET] >> 4) * 4


cdef inline bint tcp_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header with its options."""
    return size >= TCP_HEADER_BYTES and TCP_HEADER_BYTES <= tcp_header_size(p) <= size


cdef inline uint8_t tcp_flags(const uint8_t *p) noexcept nogil:
    return p[TCP_FLAGS]
