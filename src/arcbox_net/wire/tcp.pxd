"""TCP header (RFC 9293). After `tcp_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from arcbox_net.wire.octets cimport load_u16, load_u16_be, load_u32, store_u16_be, store_u32

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
    TCP_URGENT = 18
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_URG = 0x20
    TCP_CWR = 0x80


cdef inline uint32_t tcp_header_size(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[TCP_DATA_OFFSET] >> 4) * 4


cdef inline bint tcp_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header with its options."""
    return size >= TCP_HEADER_BYTES and TCP_HEADER_BYTES <= tcp_header_size(p) <= size


cdef inline uint8_t tcp_flags(const uint8_t *p) noexcept nogil:
    return p[TCP_FLAGS]


cdef inline bint tcp_flags_check(uint8_t flags) noexcept nogil:
    """Whether a TCP sends such flags: what scanners send (none, FIN|PSH|URG, SYN|FIN, SYN|RST) is told from it.

    RFC 9293 3.10.7: whatever the state, a segment with none of SYN, RST and ACK is dropped.
    """
    if flags & TCP_SYN:
        return flags & (TCP_FIN | TCP_RST) == 0
    return flags & (TCP_RST | TCP_ACK) != 0


cdef inline uint16_t tcp_source_port_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + TCP_SOURCE_PORT)


cdef inline uint16_t tcp_destination_port_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + TCP_DESTINATION_PORT)


cdef inline uint32_t tcp_sequence(const uint8_t *p) noexcept nogil:
    return load_u32(p + TCP_SEQUENCE)


cdef inline uint32_t tcp_acknowledgment(const uint8_t *p) noexcept nogil:
    return load_u32(p + TCP_ACKNOWLEDGMENT)


cdef inline uint16_t tcp_window(const uint8_t *p) noexcept nogil:
    """As sent, not yet scaled."""
    return load_u16(p + TCP_WINDOW)


cdef inline uint16_t tcp_checksum_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + TCP_CHECKSUM)


cdef inline void tcp_set_source_port_be(uint8_t *p, uint16_t port_be) noexcept nogil:
    store_u16_be(p + TCP_SOURCE_PORT, port_be)


cdef inline void tcp_set_destination_port_be(uint8_t *p, uint16_t port_be) noexcept nogil:
    store_u16_be(p + TCP_DESTINATION_PORT, port_be)


cdef inline void tcp_set_checksum_be(uint8_t *p, uint16_t checksum_be) noexcept nogil:
    store_u16_be(p + TCP_CHECKSUM, checksum_be)


cdef inline void tcp_write_reset(uint8_t *p, const uint8_t *segment, uint32_t payload_size) noexcept nogil:
    """What a closed port says to *segment*, which is no RST (RFC 9293 3.10.7.1); without its checksum."""
    cdef uint8_t flags = tcp_flags(segment)
    memset(p, 0, TCP_HEADER_BYTES)
    tcp_set_source_port_be(p, tcp_destination_port_be(segment))
    tcp_set_destination_port_be(p, tcp_source_port_be(segment))
    p[TCP_DATA_OFFSET] = (TCP_HEADER_BYTES // 4) << 4
    if flags & TCP_ACK:
        p[TCP_FLAGS] = TCP_RST
        store_u32(p + TCP_SEQUENCE, tcp_acknowledgment(segment))
        return
    p[TCP_FLAGS] = TCP_RST | TCP_ACK
    payload_size += (1 if flags & TCP_SYN else 0) + (1 if flags & TCP_FIN else 0)
    store_u32(p + TCP_ACKNOWLEDGMENT, tcp_sequence(segment) + payload_size)
