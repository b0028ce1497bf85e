"""IPv6 packets, one at a time: checked, found among the flows by the numbers of their addresses, and rewritten.

What packets of no flow may do is nat_open.pyx's to say, as for IPv4: it sees numbers of addresses and no header.
Their addresses have numbers only while it looks; those that a flow holds stay.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.dataplane.address_table cimport (
    ADDRESS_NONE, address_drop, address_find, address_octets, address_table, address_take,
)
from arcbox_net.dataplane.addresses6 cimport address6_check
from arcbox_net.dataplane.conntrack cimport conntrack_find
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN, HALF_NONE, KEY_IPV6_SHIFT, half_flow
from arcbox_net.dataplane.fragment cimport fragment_emit
from arcbox_net.dataplane.icmp6_error cimport icmp6_error_translate
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.machine cimport machine_of
from arcbox_net.dataplane.nat_open cimport nat_admit
from arcbox_net.dataplane.nat_query cimport query_check
from arcbox_net.dataplane.packet cimport (
    PACKET_FRAGMENT, PACKET_ICMP, PACKET_LAST_HOP, PACKET_OTHER, packet, packet_back,
)
from arcbox_net.dataplane.packet6 cimport packet6_check
from arcbox_net.dataplane.pass_flow cimport track_flow
from arcbox_net.dataplane.reassembly cimport reassembly_take
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_FRAGMENT, DROP_FIRST, DROP_FLOWS_FULL, DROP_TOO_BIG, DROP_TTL, DROP_UNKNOWN_PROTOCOL, INBOUND, OUTBOUND,
    VERDICT_FORWARD, VERDICT_HAIRPIN, Direction,
)
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.checksum cimport checksum_apply, checksum_apply_partial, checksum_apply_udp
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_FRAGMENTATION_NEEDED, ICMP_IDENTIFIER, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
    ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST, PROTOCOL_ICMP, icmpv6_is_error,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_SOURCE, ipv6_decrement_hop_limit,
)
from arcbox_net.wire.octets cimport load_u16_be, store_u16_be, store_u32_be
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_CHECKSUM
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_CHECKSUM


cdef uint8_t nat6_translate(nat_engine *engine, frame *whole, Direction direction) noexcept nogil:
    """The verdict on a frame with an IPv6 packet."""
    cdef packet found
    cdef uint8_t kind = packet6_check(whole, direction, &found)
    cdef uint8_t verdict
    if kind >= DROP_FIRST:
        return kind
    verdict = address6_check(engine, &found)
    if verdict >= DROP_FIRST:
        return verdict
    if kind == PACKET_FRAGMENT:
        return _gather(engine, whole, direction)
    return _translate(engine, whole, &found, kind, False)


cdef uint8_t _gather(nat_engine *engine, const frame *part, Direction direction) noexcept nogil:
    """Keep a fragment; when it is the last of its datagram, translate that and send it in fragments again."""
    cdef frame joined
    cdef packet found
    cdef Direction towards
    cdef uint64_t sender
    cdef uint8_t verdict = reassembly_take(
        &engine.fragments, &engine.answers, part, direction, engine.now_ns, &joined
    )
    if verdict != VERDICT_FORWARD:
        return verdict
    verdict = packet6_check(&joined, direction, &found)
    if verdict == PACKET_FRAGMENT:  # a second fragment header came out of the first one's payload
        return DROP_BAD_FRAGMENT
    if verdict < DROP_FIRST:
        verdict = _translate(engine, &joined, &found, verdict, True)
    if verdict >= DROP_FIRST:
        return verdict
    towards = INBOUND if verdict == VERDICT_HAIRPIN else direction
    sender = machine_of(&engine.settings.machines, part) if direction == OUTBOUND else found.key_addresses
    return fragment_emit(
        &engine.emitted, &engine.ids, &joined, sender, towards,
        min(engine.settings.mtu[<int>towards], engine.fragments.largest),
    )


cdef uint8_t _translate(
    nat_engine *engine, frame *whole, packet *found, uint8_t kind, bint joined
) noexcept nogil:
    """*joined* packets came in fragments and go in fragments, whatever their size."""
    cdef half_flow *half
    cdef uint8_t verdict
    if found.unusual & PACKET_LAST_HOP:
        if found.direction == OUTBOUND:
            icmp_refuse(&engine.answers, whole, INBOUND, ICMP_TIME_EXCEEDED, 0, 0, engine.now_ns)
        return DROP_TTL
    if kind == PACKET_OTHER:
        return DROP_UNKNOWN_PROTOCOL
    if kind == PACKET_ICMP:
        if icmpv6_is_error(found.l4):
            return icmp6_error_translate(
                &engine.flows, &engine.addresses, found, engine.settings.mtu[<int>packet_back(found)]
            )
        verdict = query_check(found, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY, <uint64_t>1 << KEY_IPV6_SHIFT)
        if verdict >= DROP_FIRST:
            return verdict
    verdict = _find_flow(engine, whole, found)
    if verdict >= DROP_FIRST:
        return verdict
    half = &engine.flows.halves[found.half]
    if not joined and not _fits(engine, whole, found, half):
        return DROP_TOO_BIG
    verdict = track_flow(engine, found, half)
    if verdict >= DROP_FIRST:
        return verdict
    _rewrite(&engine.addresses, found, half)
    return VERDICT_HAIRPIN if half.flags & HALF_HAIRPIN else VERDICT_FORWARD


cdef uint8_t _find_flow(nat_engine *engine, const frame *whole, packet *found) noexcept nogil:
    """Set `found.half`, of a flow that is known or that the packet opens; or why it is dropped."""
    cdef uint32_t source_be = address_find(&engine.addresses, found.ip + IPV6_SOURCE)
    cdef uint32_t destination_be = address_find(&engine.addresses, found.ip + IPV6_DESTINATION)
    cdef uint8_t verdict
    found.half = HALF_NONE
    if source_be != ADDRESS_NONE and destination_be != ADDRESS_NONE:
        found.key_addresses = <uint64_t>destination_be << 32 | source_be
        found.half = conntrack_find(&engine.flows, found.key_addresses, found.key_rest)
    if found.half != HALF_NONE:
        return nat_admit(engine, whole, found)
    source_be = address_take(&engine.addresses, found.ip + IPV6_SOURCE)
    destination_be = address_take(&engine.addresses, found.ip + IPV6_DESTINATION)
    found.key_addresses = <uint64_t>destination_be << 32 | source_be
    verdict = DROP_FLOWS_FULL
    if source_be != ADDRESS_NONE and destination_be != ADDRESS_NONE:
        verdict = nat_admit(engine, whole, found)
    address_drop(&engine.addresses, source_be)
    address_drop(&engine.addresses, destination_be)
    return verdict


cdef bint _fits(
    nat_engine *engine, const frame *whole, const packet *found, const half_flow *half
) noexcept nogil:
    """Whether a packet can go out. Its sender is told if not: no router cuts IPv6 packets."""
    cdef Direction towards = INBOUND if half.flags & HALF_HAIRPIN else <Direction>found.direction
    cdef uint32_t mtu = engine.settings.mtu[<int>towards]
    if found.wire_size <= mtu:
        return True
    icmp_refuse(
        &engine.answers, whole, packet_back(found), ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, mtu, engine.now_ns
    )
    return False


cdef void _rewrite(const address_table *addresses, packet *found, const half_flow *half) noexcept nogil:
    """Addresses, L4 numbers, hop limit, and the L4 checksum by what changed: IPv6 has no other."""
    cdef uint8_t *field = found.l4 + _checksum_offset(found.protocol)
    cdef uint16_t old_be = load_u16_be(field), new_be
    memcpy(found.ip + IPV6_SOURCE, address_octets(addresses, <uint32_t>half.new_addresses), IPV6_ADDRESS_BYTES)
    memcpy(
        found.ip + IPV6_DESTINATION, address_octets(addresses, <uint32_t>(half.new_addresses >> 32)),
        IPV6_ADDRESS_BYTES,
    )
    ipv6_decrement_hop_limit(found.ip)
    if found.protocol == PROTOCOL_ICMP:
        store_u16_be(found.l4 + ICMP_IDENTIFIER, <uint16_t>(half.new_ports | half.new_ports >> 16))  # one is 0
    else:
        store_u32_be(found.l4, half.new_ports)
    if found.partial:
        new_be = checksum_apply_partial(old_be, half.address_delta)
    elif found.protocol == PROTOCOL_UDP:
        new_be = checksum_apply_udp(old_be, half.l4_delta)
    else:
        new_be = checksum_apply(old_be, half.l4_delta)
    store_u16_be(field, new_be)


cdef uint32_t _checksum_offset(uint8_t protocol) noexcept nogil:
    if protocol == PROTOCOL_ICMP:
        return ICMP_CHECKSUM
    return TCP_CHECKSUM if protocol == PROTOCOL_TCP else UDP_CHECKSUM
