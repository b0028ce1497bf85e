"""ICMP (RFC 792, 1122) and ICMPv6 (RFC 4443) headers: echo and the errors that a relay sends."""

from libc.stdint cimport uint8_t

cdef enum:
    PROTOCOL_ICMP = 1
    PROTOCOL_ICMPV6 = 58
    ICMP_HEADER_BYTES = 8
    ICMP_TYPE = 0
    ICMP_CODE = 1
    ICMP_CHECKSUM = 2
    ICMP_IDENTIFIER = 4
    ICMP_REST = 4  # an error's own four bytes: the MTU, a pointer, or zero
    ICMP_SEQUENCE = 6
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO_REQUEST = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAMETER_PROBLEM = 12
    ICMP_FRAGMENTATION_NEEDED = 4  # a code of ICMP_UNREACHABLE
    ICMPV6_UNREACHABLE = 1
    ICMPV6_PACKET_TOO_BIG = 2
    ICMPV6_PARAMETER_PROBLEM = 4
    ICMPV6_ECHO_REQUEST = 128
    ICMPV6_ECHO_REPLY = 129
    ICMP_ERROR_BYTES_MAX = 576  # RFC 1812 4.3.2.3: a whole error, IP header included
    ICMPV6_ERROR_BYTES_MAX = 1280  # RFC 4443 2.4 (c)


cdef inline bint icmp_check(const uint8_t *p, size_t size) noexcept nogil:
    return size >= ICMP_HEADER_BYTES
