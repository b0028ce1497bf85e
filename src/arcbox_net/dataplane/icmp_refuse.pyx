"""Owns the answers to packets that go nowhere: ICMP errors, within limits, and RST.

An error is about one packet and quotes it as its sender wrote it, so it is made before the packet is rewritten.
None is made about an ICMP error, a fragment that is not the first, or a packet whose sender is nobody in particular
(RFC 1122 3.2.2, RFC 5508 REQ-11). A RST is no larger than the segment that it answers and needs no limit.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.dataplane.emitter cimport emit_answer
from arcbox_net.dataplane.icmp_answers cimport icmp_answers, icmp_within_limits
from arcbox_net.dataplane.icmp6_refuse cimport icmp6_refuse, tcp6_refuse
from arcbox_net.dataplane.verdict cimport INBOUND, Direction
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_store, pseudo_sum
from arcbox_net.wire.ethernet cimport ethernet_is_group
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_ERROR_BYTES_MAX, ICMP_HEADER_BYTES, PROTOCOL_ICMP, icmp_is_query, icmp_write_error,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_SOURCE, ipv4_destination_be, ipv4_fragment_offset,
    ipv4_header_size, ipv4_protocol, ipv4_set_checksum, ipv4_set_destination_be, ipv4_set_source_be,
    ipv4_source_be, ipv4_total_length, ipv4_write,
)
from arcbox_net.wire.octets cimport load_u32
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_CHECKSUM, TCP_HEADER_BYTES, TCP_RST, tcp_flags, tcp_header_size, tcp_write_reset,
)

cdef enum:
    QUOTE_BYTES_MAX = ICMP_ERROR_BYTES_MAX - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES


cdef void icmp_refuse(
    icmp_answers *a, const frame *offending, Direction towards, uint8_t icmp_type, uint8_t icmp_code,
    uint32_t rest, uint64_t now_ns,
) noexcept nogil:
    """Send an error about *offending*, whose IP header was checked; *rest* is what only this type has: an MTU.

    The sender of an IPv6 packet gets the ICMPv6 error that says the same.
    """
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef uint32_t quoted = min(ipv4_total_length(ip), <uint32_t>QUOTE_BYTES_MAX)
    cdef uint32_t size = ICMP_HEADER_BYTES + quoted
    cdef uint8_t *answer
    cdef uint8_t *icmp
    if ip[0] >> 4 == 6:
        icmp6_refuse(a, offending, towards, icmp_type, icmp_code, rest, now_ns)
        return
    if not _may_be_told(offending) or not icmp_within_limits(a, offending, towards, now_ns):
        return
    answer = emit_answer(a.out, offending, towards, IPV4_HEADER_BYTES + size)
    if answer == NULL:
        return
    icmp = answer + IPV4_HEADER_BYTES
    _write_ip(a, answer, ip, PROTOCOL_ICMP, size, a.gateway_be if towards == INBOUND else 0)
    icmp_write_error(icmp, icmp_type, icmp_code, rest)
    memcpy(icmp + ICMP_HEADER_BYTES, ip, quoted)
    checksum_store(icmp + ICMP_CHECKSUM, checksum_add(0, icmp, size))


cdef void tcp_refuse(icmp_answers *a, const frame *offending, Direction towards) noexcept nogil:
    """Answer a segment, whose TCP header was checked, as a closed port does."""
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef const uint8_t *segment = ip + ipv4_header_size(ip)
    cdef uint32_t payload_size
    cdef uint8_t *answer
    cdef uint8_t *tcp
    if ip[0] >> 4 == 6:
        tcp6_refuse(a, offending, towards)
        return
    payload_size = ipv4_total_length(ip) - ipv4_header_size(ip) - tcp_header_size(segment)
    if tcp_flags(segment) & TCP_RST or not _may_be_told(offending):
        return
    answer = emit_answer(a.out, offending, towards, IPV4_HEADER_BYTES + TCP_HEADER_BYTES)
    if answer == NULL:
        return
    tcp = answer + IPV4_HEADER_BYTES
    _write_ip(a, answer, ip, PROTOCOL_TCP, TCP_HEADER_BYTES, 0)
    tcp_write_reset(tcp, segment, payload_size)
    checksum_store(
        tcp + TCP_CHECKSUM,
        checksum_add(
            pseudo_sum(answer + IPV4_SOURCE, answer + IPV4_DESTINATION, 4, PROTOCOL_TCP, TCP_HEADER_BYTES),
            tcp, TCP_HEADER_BYTES,
        ),
    )


cdef bint _may_be_told(const frame *offending) noexcept nogil:
    """Whether there may be an answer to the packet at all, and one host that it goes to."""
    cdef const uint8_t *ip = offending.data + offending.l3
    cdef uint32_t source = load_u32(ip + IPV4_SOURCE)
    cdef uint32_t destination = load_u32(ip + IPV4_DESTINATION)
    if offending.l3 and ethernet_is_group(offending.data):
        return False
    if source >> 28 >= 14 or source >> 24 == 0 or source >> 24 == 127 or destination >> 28 >= 14:
        return False
    if ipv4_fragment_offset(ip):
        return False
    return ipv4_protocol(ip) != PROTOCOL_ICMP or (
        ipv4_total_length(ip) > ipv4_header_size(ip) and icmp_is_query(ip + ipv4_header_size(ip))
    )


cdef void _write_ip(
    icmp_answers *a, uint8_t *answer, const uint8_t *ip, uint8_t protocol, uint32_t size, uint32_t source_be
) noexcept nogil:
    """The header of an answer to the packet at *ip*: from *source_be*, or else from whom that was for."""
    ipv4_write(answer, protocol, size)
    ipv4_set_source_be(answer, source_be if source_be else ipv4_destination_be(ip))
    ipv4_set_destination_be(answer, ipv4_source_be(ip))
    ipv4_set_checksum(answer)
