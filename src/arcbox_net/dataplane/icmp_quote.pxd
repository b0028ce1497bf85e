"""The packet that an ICMP error quotes, of either IP version: which flow's it is, and what it was before translation.

ICMPv6 has ICMP's number in `quote.protocol`, as in keys.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.flow cimport TCP_SEEN_ACK, half_flow
from arcbox_net.wire.checksum cimport checksum_apply, checksum_apply_udp
from arcbox_net.wire.icmp cimport (
    PROTOCOL_ICMP, icmp_checksum_be, icmp_identifier_be, icmp_set_checksum_be, icmp_set_identifier_be, icmp_type,
)
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_CHECKSUM, tcp_checksum_be, tcp_destination_port_be, tcp_sequence, tcp_set_checksum_be,
    tcp_set_destination_port_be, tcp_set_source_port_be, tcp_source_port_be,
)
from arcbox_net.wire.udp cimport PROTOCOL_UDP, udp_checksum_be, udp_set_checksum_be

cdef struct quote:
    uint8_t *ip
    uint8_t *l4
    uint32_t l4_size  # of what is quoted of it: 8 at least
    uint8_t protocol


cdef inline bint quote_numbers(
    const quote *quoted, uint8_t echo_request, uint8_t echo_reply, uint32_t *numbers
) noexcept nogil:
    """In *numbers* those of packets that answer the quoted one, as in a key; False if none do."""
    if quoted.protocol == PROTOCOL_TCP or quoted.protocol == PROTOCOL_UDP:
        numbers[0] = tcp_destination_port_be(quoted.l4) | <uint32_t>tcp_source_port_be(quoted.l4) << 16
    elif quoted.protocol == PROTOCOL_ICMP and icmp_type(quoted.l4) == echo_request:
        numbers[0] = <uint32_t>icmp_identifier_be(quoted.l4) << 16
    elif quoted.protocol == PROTOCOL_ICMP and icmp_type(quoted.l4) == echo_reply:
        numbers[0] = icmp_identifier_be(quoted.l4)
    else:
        return False
    return True


cdef inline bint quote_is_in_flight(const quote *quoted, const half_flow *back) noexcept nogil:
    """Whether the receiver may still lack the quoted segment; *back* is the way of its acknowledgments.

    Of a receiver that has acknowledged nothing yet it is not known: it waits for a SYN, which any link holds.
    """
    cdef uint32_t ahead
    if quoted.protocol != PROTOCOL_TCP:
        return True
    ahead = tcp_sequence(quoted.l4) - back.ack_next
    return back.tcp & TCP_SEEN_ACK and ahead < max(back.window_end - back.ack_next, <uint32_t>1)


cdef inline void quote_rewrite_l4(quote *quoted, const half_flow *back) noexcept nogil:
    """Make the quoted L4 header what it was before it was translated."""
    cdef uint16_t source_be = <uint16_t>(back.new_ports >> 16), destination_be = <uint16_t>back.new_ports
    if quoted.protocol == PROTOCOL_ICMP:
        icmp_set_identifier_be(quoted.l4, source_be | destination_be)  # one of them is 0
        icmp_set_checksum_be(quoted.l4, checksum_apply(icmp_checksum_be(quoted.l4), back.l4_delta))
        return
    tcp_set_source_port_be(quoted.l4, source_be)
    tcp_set_destination_port_be(quoted.l4, destination_be)
    if quoted.protocol == PROTOCOL_UDP:
        udp_set_checksum_be(quoted.l4, checksum_apply_udp(udp_checksum_be(quoted.l4), back.l4_delta))
    elif quoted.l4_size >= TCP_CHECKSUM + 2:
        tcp_set_checksum_be(quoted.l4, checksum_apply(tcp_checksum_be(quoted.l4), back.l4_delta))
