"""ICMP (RFC 792, 1122) and ICMPv6 (RFC 4443) headers. After `icmp_check` every getter is within its bytes."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.octets cimport load_u16, load_u16_be, store_u16, store_u16_be, store_u32

cdef enum:
    PROTOCOL_ICMP = 1
    PROTOCOL_ICMPV6 = 58
    ICMP_HEADER_BYTES = 8
    ICMP_TYPE = 0
    ICMP_CODE = 1
    ICMP_CHECKSUM = 2
    ICMP_IDENTIFIER = 4
    ICMP_REST = 4  # an error's own four bytes: the MTU, a pointer, or zero
    ICMP_LENGTH = 5  # RFC 4884: of the quote, in units of four bytes; 0 where it is all that follows
    ICMP_SEQUENCE = 6
    ICMP_MTU = 6  # of "fragmentation needed" (RFC 1191)
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_SOURCE_QUENCH = 4
    ICMP_REDIRECT = 5
    ICMP_ECHO_REQUEST = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER_PROBLEM = 12
    ICMP_TIMESTAMP_REQUEST = 13
    ICMP_TIMESTAMP_REPLY = 14
    ICMP_HOST_UNREACHABLE = 1  # codes of ICMP_UNREACHABLE
    ICMP_PORT_UNREACHABLE = 3
    ICMP_FRAGMENTATION_NEEDED = 4
    ICMP_PROHIBITED = 13
    ICMPV6_UNREACHABLE = 1
    ICMPV6_PACKET_TOO_BIG = 2
    ICMPV6_TIME_EXCEEDED = 3
    ICMPV6_PARAMETER_PROBLEM = 4
    ICMPV6_ECHO_REQUEST = 128
    ICMPV6_ECHO_REPLY = 129
    ICMP_ERROR_BYTES_MAX = 576  # RFC 1812 4.3.2.3: a whole error, IP header included
    ICMPV6_ERROR_BYTES_MAX = 1280  # RFC 4443 2.4 (c)


cdef inline bint icmp_check(const uint8_t *p, size_t size) noexcept nogil:
    return size >= ICMP_HEADER_BYTES


cdef inline uint8_t icmp_type(const uint8_t *p) noexcept nogil:
    return p[ICMP_TYPE]


cdef inline uint8_t icmp_code(const uint8_t *p) noexcept nogil:
    return p[ICMP_CODE]


cdef inline bint icmp_is_error(const uint8_t *p) noexcept nogil:
    """Whether a packet is quoted behind the header; to such a packet no error is sent (RFC 1122 3.2.2)."""
    cdef uint32_t errors = (
        1 << ICMP_UNREACHABLE
        | 1 << ICMP_SOURCE_QUENCH
        | 1 << ICMP_REDIRECT
        | 1 << ICMP_TIME_EXCEEDED
        | 1 << ICMP_PARAMETER_PROBLEM
    )
    return p[ICMP_TYPE] < 32 and errors >> p[ICMP_TYPE] & 1 != 0


cdef inline bint icmp_is_query(const uint8_t *p) noexcept nogil:
    """Whether it is one of a request and a reply that share an identifier (RFC 5508 3.1)."""
    cdef uint32_t queries = (
        1 << ICMP_ECHO_REPLY
        | 1 << ICMP_ECHO_REQUEST
        | 1 << ICMP_TIMESTAMP_REQUEST
        | 1 << ICMP_TIMESTAMP_REPLY
    )
    return p[ICMP_TYPE] < 32 and queries >> p[ICMP_TYPE] & 1 != 0


cdef inline bint icmp_is_request(const uint8_t *p) noexcept nogil:
    """Whether a query begins with it."""
    return p[ICMP_TYPE] == ICMP_ECHO_REQUEST or p[ICMP_TYPE] == ICMP_TIMESTAMP_REQUEST


cdef inline bint icmpv6_is_error(const uint8_t *p) noexcept nogil:
    """RFC 4443 2.1: the types of errors are those below 128. Not all of them quote a packet that is known."""
    return p[ICMP_TYPE] < 128


cdef inline bint icmpv6_is_query(const uint8_t *p) noexcept nogil:
    return p[ICMP_TYPE] == ICMPV6_ECHO_REQUEST or p[ICMP_TYPE] == ICMPV6_ECHO_REPLY


cdef inline uint16_t icmp_checksum_be(const uint8_t *p) noexcept nogil:
    return load_u16_be(p + ICMP_CHECKSUM)


cdef inline uint16_t icmp_identifier_be(const uint8_t *p) noexcept nogil:
    """Of a query."""
    return load_u16_be(p + ICMP_IDENTIFIER)


cdef inline uint16_t icmp_mtu(const uint8_t *p) noexcept nogil:
    """Of "fragmentation needed"; 0 from a router older than RFC 1191."""
    return load_u16(p + ICMP_MTU)


cdef inline void icmp_set_checksum_be(uint8_t *p, uint16_t checksum_be) noexcept nogil:
    store_u16_be(p + ICMP_CHECKSUM, checksum_be)


cdef inline void icmp_set_identifier_be(uint8_t *p, uint16_t identifier_be) noexcept nogil:
    store_u16_be(p + ICMP_IDENTIFIER, identifier_be)


cdef inline void icmp_write_error(uint8_t *p, uint8_t icmp_type, uint8_t code, uint32_t rest) noexcept nogil:
    """The header of an error of either version, but for its checksum: that is of the quote too."""
    p[ICMP_TYPE] = icmp_type
    p[ICMP_CODE] = code
    store_u16(p + ICMP_CHECKSUM, 0)
    store_u32(p + ICMP_REST, rest)
