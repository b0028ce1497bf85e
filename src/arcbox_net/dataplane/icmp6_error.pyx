"""Translates ICMPv6 errors, in place, with the packet that they quote (RFC 4443, RFC 4884), as icmp_error.pyx ICMP's.

"Packet too big" may name less than 1,280 bytes, which no IPv6 link has: it is passed on as one of 1,280 (RFC 8200 5).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from arcbox_net.dataplane.address_table cimport ADDRESS_NONE, address_find, address_octets, address_table
from arcbox_net.dataplane.conntrack cimport conntrack, conntrack_find
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN, HALF_NONE, half_flow
from arcbox_net.dataplane.icmp_quote cimport quote, quote_is_in_flight, quote_numbers, quote_rewrite_l4
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.packet6 cimport packet6_key
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_ICMP, DROP_ICMP_NO_FLOW, OUTBOUND, VERDICT_FORWARD, VERDICT_HAIRPIN, Direction, Verdict,
)
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store, pseudo_sum
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_HEADER_BYTES, ICMP_REST, ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, ICMPV6_PACKET_TOO_BIG,
    ICMPV6_PARAMETER_PROBLEM, ICMPV6_TIME_EXCEEDED, ICMPV6_UNREACHABLE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, icmp_type,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_EXTENSIONS_MAX, IPV6_HEADER_BYTES, IPV6_MTU_MIN, IPV6_NEXT_HEADER,
    IPV6_QUOTE_BYTES_MIN, IPV6_SOURCE, IPV6_WALK_OK, ipv6_decrement_hop_limit, ipv6_follow, ipv6_quote_check,
    ipv6_total_length,
)
from arcbox_net.wire.octets cimport load_u32, store_u16, store_u32

cdef enum:
    LENGTH_UNIT = 8  # RFC 4884 4.2: of the length in the header's fifth byte


cdef Verdict icmp6_error_translate(
    conntrack *flows, const address_table *addresses, packet *found, uint32_t mtu
) noexcept nogil:
    """Translate an error that `packet6_check` has seen; *mtu* is that of the link that the quoted packet went to."""
    cdef quote quoted
    cdef const half_flow *back
    cdef uint32_t half
    if not _check(found, &quoted):
        return DROP_BAD_ICMP
    if memcmp(found.ip + IPV6_DESTINATION, quoted.ip + IPV6_SOURCE, IPV6_ADDRESS_BYTES) != 0:
        return DROP_BAD_ICMP
    if found.direction == OUTBOUND and (
        memcmp(found.ip + IPV6_SOURCE, quoted.ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES) != 0
    ):
        return DROP_BAD_ICMP
    half = _find(flows, addresses, &quoted, <Direction>found.direction)
    if half == HALF_NONE:
        return DROP_ICMP_NO_FLOW
    back = &flows.halves[half]
    if icmp_type(found.l4) == ICMPV6_PACKET_TOO_BIG:
        if load_u32(found.l4 + ICMP_REST) >= min(mtu, ipv6_total_length(quoted.ip)):
            return DROP_BAD_ICMP
        if not quote_is_in_flight(&quoted, back):
            return DROP_BAD_ICMP
        store_u32(found.l4 + ICMP_REST, max(load_u32(found.l4 + ICMP_REST), <uint32_t>IPV6_MTU_MIN))
    _rewrite(addresses, back, found, &quoted)
    return VERDICT_HAIRPIN if back.flags & HALF_HAIRPIN else VERDICT_FORWARD


cdef uint64_t _sum(const packet *found) noexcept nogil:
    """Of the error and its pseudo header."""
    return checksum_add(
        pseudo_sum(
            found.ip + IPV6_SOURCE, found.ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES, PROTOCOL_ICMPV6, found.l4_size
        ),
        found.l4, found.l4_size,
    )


cdef bint _check(const packet *found, quote *quoted) noexcept nogil:
    """Whether it is an error that is passed on, unharmed, with a quote that has the L4 header's first 8 bytes."""
    cdef uint8_t kind = icmp_type(found.l4)
    cdef uint32_t room = found.l4_size - ICMP_HEADER_BYTES, offset = IPV6_HEADER_BYTES, left = IPV6_EXTENSIONS_MAX
    cdef uint32_t length = 0
    if not ICMPV6_UNREACHABLE <= kind <= ICMPV6_PARAMETER_PROBLEM or checksum_fold(_sum(found)) != 0xFFFF:
        return False
    if kind == ICMPV6_UNREACHABLE or kind == ICMPV6_TIME_EXCEEDED:
        length = <uint32_t>found.l4[ICMP_REST] * LENGTH_UNIT
    if 0 < length < room:
        room = length  # extensions are behind it
    quoted.ip = found.l4 + ICMP_HEADER_BYTES
    if not ipv6_quote_check(quoted.ip, room):
        return False
    room = min(room, ipv6_total_length(quoted.ip))
    quoted.protocol = quoted.ip[IPV6_NEXT_HEADER]
    if ipv6_follow(quoted.ip, room, &quoted.protocol, &offset, &left) != IPV6_WALK_OK:
        return False
    if room - offset < IPV6_QUOTE_BYTES_MIN or quoted.protocol == PROTOCOL_ICMP:
        return False
    if quoted.protocol == PROTOCOL_ICMPV6:
        quoted.protocol = PROTOCOL_ICMP
    quoted.l4 = quoted.ip + offset
    quoted.l4_size = room - offset
    return True


cdef uint32_t _find(
    conntrack *flows, const address_table *addresses, const quote *quoted, Direction direction
) noexcept nogil:
    """The half flow of packets that answer the quoted one, or HALF_NONE."""
    cdef uint32_t sender_be = address_find(addresses, quoted.ip + IPV6_SOURCE)
    cdef uint32_t receiver_be = address_find(addresses, quoted.ip + IPV6_DESTINATION)
    cdef uint32_t numbers
    if sender_be == ADDRESS_NONE or receiver_be == ADDRESS_NONE:
        return HALF_NONE
    if not quote_numbers(quoted, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY, &numbers):
        return HALF_NONE
    return conntrack_find(
        flows, <uint64_t>sender_be << 32 | receiver_be, packet6_key(numbers, quoted.protocol, direction)
    )


cdef void _rewrite(
    const address_table *addresses, const half_flow *back, packet *found, quote *quoted
) noexcept nogil:
    """The quote becomes what it was, and the error goes to its sender; from us, when it comes from inside."""
    cdef const uint8_t *sender = address_octets(addresses, <uint32_t>(back.new_addresses >> 32))
    cdef const uint8_t *receiver = address_octets(addresses, <uint32_t>back.new_addresses)
    memcpy(quoted.ip + IPV6_SOURCE, sender, IPV6_ADDRESS_BYTES)
    memcpy(quoted.ip + IPV6_DESTINATION, receiver, IPV6_ADDRESS_BYTES)
    quote_rewrite_l4(quoted, back)
    memcpy(found.ip + IPV6_DESTINATION, sender, IPV6_ADDRESS_BYTES)
    if found.direction == OUTBOUND:
        memcpy(found.ip + IPV6_SOURCE, receiver, IPV6_ADDRESS_BYTES)
    ipv6_decrement_hop_limit(found.ip)
    store_u16(found.l4 + ICMP_CHECKSUM, 0)
    checksum_store(found.l4 + ICMP_CHECKSUM, _sum(found))
