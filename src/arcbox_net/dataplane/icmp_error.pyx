"""Translates ICMP errors, in place, with the packet that they quote (RFC 5508 4, RFC 792, RFC 4884).

Theory of operation. The quoted packet went the other way and left us translated. So its addresses and ports, source
and destination exchanged, are those of a packet that comes the same way as the error: they are the key of the half
flow that turns such packets back, and what that one writes is, exchanged again, what the quoted packet was at first.
The quote's own checksums are kept right; bytes behind the quoted packet (extensions, padding) stay as they are.

An error changes nothing but itself: it neither refreshes nor ends a flow (RFC 4787 REQ-12, RFC 5508 REQ-6). The address
that one from outside comes from does not matter; a guest's is about what that guest was sent, or it could disturb the
connections of others. It is dropped when its checksum or the quoted header's is wrong, when it
is not for the quoted packet's sender, and when it quotes an error, a later fragment, or a packet of no flow.

"Fragmentation needed" makes its receiver send smaller packets, so forged ones are worth sending: one is dropped that
names an MTU which no IPv4 link has, or which our own link and the quoted packet show to be none of the path, or that
quotes a TCP sequence number which is not in flight (RFC 5927 7.2).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.conntrack cimport conntrack, conntrack_find
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN, HALF_NONE, half_flow
from arcbox_net.dataplane.icmp_quote cimport quote, quote_is_in_flight, quote_numbers, quote_rewrite_l4
from arcbox_net.dataplane.offload cimport offload_is_none
from arcbox_net.dataplane.packet cimport packet_key
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_ICMP, DROP_BAD_OFFLOAD, DROP_ICMP_NO_FLOW, DROP_TTL, OUTBOUND, VERDICT_FORWARD, VERDICT_HAIRPIN,
    Direction, Verdict,
)
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_FRAGMENTATION_NEEDED, ICMP_HEADER_BYTES, ICMP_LENGTH,
    ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, icmp_code, icmp_mtu, icmp_type,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_MTU_MIN, IPV4_QUOTE_BYTES_MIN, ipv4_checksum_ok, ipv4_decrement_ttl, ipv4_destination_be,
    ipv4_fragment_offset, ipv4_header_size, ipv4_protocol, ipv4_quote_check, ipv4_set_checksum,
    ipv4_set_destination_be, ipv4_set_source_be, ipv4_source_be, ipv4_total_length, ipv4_ttl,
)
from arcbox_net.wire.octets cimport store_u16

cdef Verdict icmp_error_translate(conntrack *flows, frame *f, Direction direction, uint32_t mtu) noexcept nogil:
    """Translate an error whose IP header was checked; *mtu* is that of the link that the quoted packet went to."""
    cdef uint8_t *ip = f.data + f.l3
    cdef uint8_t *icmp = ip + ipv4_header_size(ip)
    cdef uint32_t size = ipv4_total_length(ip) - ipv4_header_size(ip), half
    cdef quote quoted
    if not offload_is_none(f):
        return DROP_BAD_OFFLOAD
    if not _check(icmp, size, &quoted) or ipv4_destination_be(ip) != ipv4_source_be(quoted.ip):
        return DROP_BAD_ICMP
    if direction == OUTBOUND and ipv4_source_be(ip) != ipv4_destination_be(quoted.ip):
        return DROP_BAD_ICMP
    half = _find(flows, &quoted, direction)
    if half == HALF_NONE:
        return DROP_ICMP_NO_FLOW
    if icmp_type(icmp) == ICMP_UNREACHABLE and icmp_code(icmp) == ICMP_FRAGMENTATION_NEEDED:
        mtu = min(mtu, ipv4_total_length(quoted.ip))
        if not IPV4_MTU_MIN <= icmp_mtu(icmp) < mtu or not quote_is_in_flight(&quoted, &flows.halves[half]):
            return DROP_BAD_ICMP
    if ipv4_ttl(ip) <= 1:
        return DROP_TTL
    ipv4_decrement_ttl(ip, 0)
    _rewrite_quote(&flows.halves[half], &quoted)
    _rewrite(&flows.halves[half], ip, direction)
    store_u16(icmp + ICMP_CHECKSUM, 0)
    checksum_store(icmp + ICMP_CHECKSUM, checksum_add(0, icmp, size))
    return VERDICT_HAIRPIN if flows.halves[half].flags & HALF_HAIRPIN else VERDICT_FORWARD


cdef bint _check(uint8_t *icmp, uint32_t size, quote *quoted) noexcept nogil:
    """Whether it is an error that is passed on, unharmed, with a quote that has the L4 header's first 8 bytes."""
    cdef uint8_t kind = icmp_type(icmp)
    cdef uint32_t room, length
    if size < ICMP_HEADER_BYTES:
        return False
    if kind != ICMP_UNREACHABLE and kind != ICMP_TIME_EXCEEDED and kind != ICMP_PARAMETER_PROBLEM:
        return False
    if checksum_fold(checksum_add(0, icmp, size)) != 0xFFFF:
        return False
    room = size - ICMP_HEADER_BYTES
    length = <uint32_t>icmp[ICMP_LENGTH] * 4
    if 0 < length < room:
        room = length  # extensions are behind it
    quoted.ip = icmp + ICMP_HEADER_BYTES
    if not ipv4_quote_check(quoted.ip, room) or not ipv4_checksum_ok(quoted.ip):
        return False
    room = min(room, ipv4_total_length(quoted.ip))
    quoted.l4 = quoted.ip + ipv4_header_size(quoted.ip)
    quoted.l4_size = room - ipv4_header_size(quoted.ip)
    quoted.protocol = ipv4_protocol(quoted.ip)
    return quoted.l4_size >= IPV4_QUOTE_BYTES_MIN


cdef uint32_t _find(conntrack *flows, const quote *quoted, Direction direction) noexcept nogil:
    """The half flow of packets that answer the quoted one, or HALF_NONE."""
    cdef uint32_t numbers
    if ipv4_fragment_offset(quoted.ip):
        return HALF_NONE
    if not quote_numbers(quoted, ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY, &numbers):
        return HALF_NONE
    return conntrack_find(
        flows,
        <uint64_t>ipv4_source_be(quoted.ip) << 32 | ipv4_destination_be(quoted.ip),
        packet_key(numbers, quoted.protocol, direction),
    )


cdef void _rewrite_quote(const half_flow *back, quote *quoted) noexcept nogil:
    """Make the quoted packet what it was before it was translated."""
    ipv4_set_source_be(quoted.ip, <uint32_t>(back.new_addresses >> 32))
    ipv4_set_destination_be(quoted.ip, <uint32_t>back.new_addresses)
    ipv4_set_checksum(quoted.ip)
    quote_rewrite_l4(quoted, back)


cdef void _rewrite(const half_flow *back, uint8_t *ip, Direction direction) noexcept nogil:
    """The error's own header: to the quoted packet's sender; from us, when it comes from inside."""
    ipv4_set_destination_be(ip, <uint32_t>(back.new_addresses >> 32))
    if direction == OUTBOUND:
        ipv4_set_source_be(ip, <uint32_t>back.new_addresses)
    ipv4_set_checksum(ip)
