"""The answers to IPv6 packets that go nowhere, as icmp_refuse.pyx's to IPv4 ones: ICMPv6 errors, and RST.

Callers name the ICMP error; its ICMPv6 counterpart is that of translators between the two (RFC 7915 4.2).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.dataplane.addresses6 cimport is_unicast6
from arcbox_net.dataplane.emitter cimport emit_answer
from arcbox_net.dataplane.icmp_answers cimport icmp_answers, icmp_within_limits
from arcbox_net.dataplane.verdict cimport INBOUND, Direction
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_store, pseudo_sum
from arcbox_net.wire.ethernet cimport ethernet_is_group
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_FRAGMENTATION_NEEDED, ICMP_HEADER_BYTES, ICMP_PORT_UNREACHABLE, ICMP_PROHIBITED,
    ICMP_TIME_EXCEEDED, ICMPV6_ERROR_BYTES_MAX, ICMPV6_PACKET_TOO_BIG, ICMPV6_TIME_EXCEEDED, ICMPV6_UNREACHABLE,
    PROTOCOL_ICMPV6, icmp_write_error, icmpv6_is_error,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_EXTENSIONS_MAX, IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_NEXT_HEADER,
    IPV6_HEADER_BYTES, IPV6_NEXT_HEADER, IPV6_SOURCE, IPV6_WALK_FRAGMENT, IPV6_WALK_OK, ipv6_follow,
    ipv6_fragment_offset, ipv6_total_length, ipv6_walk, ipv6_write,
)
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_CHECKSUM, TCP_HEADER_BYTES, TCP_RST, tcp_flags, tcp_header_size, tcp_write_reset,
)

cdef enum:
    QUOTE_BYTES_MAX = ICMPV6_ERROR_BYTES_MAX - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES
    # Codes of ICMPV6_UNREACHABLE.
    NO_ROUTE = 0
    PROHIBITED = 1
    PORT_UNREACHABLE = 4


cdef void icmp6_refuse(
    icmp_answers *a, const frame *offending, Direction towards, uint8_t icmp_type, uint8_t icmp_code,
    uint32_t rest, uint64_t now_ns,
) noexcept nogil:
    """Send an error about *offending*, whose IP header was checked; *rest* is what only this type has: an MTU."""
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef uint32_t quoted = min(offending.size - offending.l3, <uint32_t>QUOTE_BYTES_MAX)
    cdef uint32_t size = ICMP_HEADER_BYTES + quoted
    cdef const uint8_t *source = a.gateway6
    cdef uint8_t *answer
    cdef uint8_t *icmp
    if towards != INBOUND:
        source = ip + IPV6_DESTINATION
    if not _may_be_told(offending):
        return
    if not icmp_within_limits(a, offending, towards, now_ns):
        return
    answer = emit_answer(a.out, offending, towards, IPV6_HEADER_BYTES + size)
    if answer == NULL:
        return
    icmp = answer + IPV6_HEADER_BYTES
    _write_ip(answer, PROTOCOL_ICMPV6, size, source, ip)
    _write_error(icmp, icmp_type, icmp_code, rest)
    memcpy(icmp + ICMP_HEADER_BYTES, ip, quoted)
    _store_sum(answer, PROTOCOL_ICMPV6, size, icmp + ICMP_CHECKSUM)


cdef void tcp6_refuse(icmp_answers *a, const frame *offending, Direction towards) noexcept nogil:
    """Answer a segment, whose TCP header was checked, as a closed port does."""
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef const uint8_t *segment
    cdef uint8_t *answer
    cdef uint8_t *tcp
    cdef uint8_t protocol
    cdef uint32_t offset
    if _follow(ip, offending.size - offending.l3, &protocol, &offset) != IPV6_WALK_OK:
        return
    segment = ip + offset
    if tcp_flags(segment) & TCP_RST or not _may_be_told(offending):
        return
    answer = emit_answer(a.out, offending, towards, IPV6_HEADER_BYTES + TCP_HEADER_BYTES)
    if answer == NULL:
        return
    tcp = answer + IPV6_HEADER_BYTES
    _write_ip(answer, PROTOCOL_TCP, TCP_HEADER_BYTES, ip + IPV6_DESTINATION, ip)
    tcp_write_reset(tcp, segment, ipv6_total_length(ip) - offset - tcp_header_size(segment))
    _store_sum(answer, PROTOCOL_TCP, TCP_HEADER_BYTES, tcp + TCP_CHECKSUM)


cdef bint _may_be_told(const frame *offending) noexcept nogil:
    """Whether there may be an answer to the packet at all, and one host that it goes to (RFC 4443 2.4 (e))."""
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef uint8_t protocol
    cdef uint32_t offset
    if offending.l3 and ethernet_is_group(offending.data):
        return False
    if not is_unicast6(ip + IPV6_SOURCE) or not is_unicast6(ip + IPV6_DESTINATION):
        return False
    if _follow(ip, offending.size - offending.l3, &protocol, &offset) != IPV6_WALK_OK:
        return False
    if protocol != PROTOCOL_ICMPV6:
        return True
    return offending.size - offending.l3 > offset and not icmpv6_is_error(ip + offset)


cdef ipv6_walk _follow(const uint8_t *ip, uint32_t size, uint8_t *protocol, uint32_t *offset) noexcept nogil:
    """To the upper layer, of a first fragment too. No further than *size*: it may be a copy of a packet's beginning."""
    cdef uint32_t left = IPV6_EXTENSIONS_MAX
    cdef ipv6_walk walk
    protocol[0] = ip[IPV6_NEXT_HEADER]
    offset[0] = IPV6_HEADER_BYTES
    walk = ipv6_follow(ip, size, protocol, offset, &left)
    if walk == IPV6_WALK_FRAGMENT and ipv6_fragment_offset(ip + offset[0]) == 0:
        protocol[0] = ip[offset[0] + IPV6_FRAGMENT_NEXT_HEADER]
        offset[0] += IPV6_FRAGMENT_BYTES
        walk = ipv6_follow(ip, size, protocol, offset, &left)
    return walk


cdef void _write_ip(
    uint8_t *answer, uint8_t protocol, uint32_t size, const uint8_t *source, const uint8_t *ip
) noexcept nogil:
    """The header of an answer to the packet at *ip*."""
    ipv6_write(answer, protocol, size)
    memcpy(answer + IPV6_SOURCE, source, IPV6_ADDRESS_BYTES)
    memcpy(answer + IPV6_DESTINATION, ip + IPV6_SOURCE, IPV6_ADDRESS_BYTES)


cdef void _write_error(uint8_t *icmp, uint8_t icmp_type, uint8_t icmp_code, uint32_t rest) noexcept nogil:
    """RFC 7915 4.2, for the errors that a NAT makes."""
    if icmp_type == ICMP_TIME_EXCEEDED:
        icmp_write_error(icmp, ICMPV6_TIME_EXCEEDED, icmp_code, 0)
    elif icmp_code == ICMP_FRAGMENTATION_NEEDED:
        icmp_write_error(icmp, ICMPV6_PACKET_TOO_BIG, 0, rest)
    elif icmp_code == ICMP_PROHIBITED:
        icmp_write_error(icmp, ICMPV6_UNREACHABLE, PROHIBITED, 0)
    else:
        icmp_write_error(
            icmp, ICMPV6_UNREACHABLE, PORT_UNREACHABLE if icmp_code == ICMP_PORT_UNREACHABLE else NO_ROUTE, 0
        )


cdef void _store_sum(uint8_t *answer, uint8_t protocol, uint32_t size, uint8_t *field) noexcept nogil:
    """The L4 checksum of an answer in which that is zero; *size* is that of what follows the IPv6 header."""
    cdef uint64_t total = pseudo_sum(
        answer + IPV6_SOURCE, answer + IPV6_DESTINATION, IPV6_ADDRESS_BYTES, protocol, size
    )
    checksum_store(field, checksum_add(total, answer + IPV6_HEADER_BYTES, size))
