"""Packets that are no plain ones of a known flow: martians, fragments, ICMP, the last hop, too large, new flows, IPv6.

`packet_check` has looked at them already. What opens a flow is nat_open.pyx's.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.addresses cimport address_check, is_routed
from arcbox_net.dataplane.conntrack cimport conntrack_find
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN
from arcbox_net.dataplane.fragment cimport fragment_emit
from arcbox_net.dataplane.icmp_error cimport icmp_error_translate
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.machine cimport machine_of_ipv4
from arcbox_net.dataplane.nat6 cimport nat6_translate
from arcbox_net.dataplane.nat_open cimport nat_admit
from arcbox_net.dataplane.nat_query cimport query_check
from arcbox_net.dataplane.packet cimport (
    PACKET_FRAGMENT, PACKET_ICMP, PACKET_LAST_HOP, PACKET_OTHER, packet, packet_back, packet_check,
    packet_may_fragment,
)
from arcbox_net.dataplane.packet6 cimport frame_is_ipv6
from arcbox_net.dataplane.pass_flow cimport pass_any
from arcbox_net.dataplane.reassembly cimport reassembly_take
from arcbox_net.dataplane.verdict cimport (
    DROP_FIRST, DROP_TOO_BIG, DROP_TTL, DROP_UNKNOWN_PROTOCOL, INBOUND, OUTBOUND, VERDICT_FORWARD, VERDICT_HAIRPIN,
    Direction,
)
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.icmp cimport (
    ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_FRAGMENTATION_NEEDED, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, icmp_is_error,
)
from arcbox_net.wire.ipv4 cimport IPV4_LENGTH_MAX, ipv4_decrement_ttl


cdef uint8_t nat_slow(
    nat_engine *engine, frame *whole, packet *found, uint8_t kind, Direction direction
) noexcept nogil:
    """The verdict on a packet of which `packet_check` said *kind*."""
    cdef uint8_t verdict
    if kind >= DROP_FIRST:
        if engine.settings.has_ipv6 and frame_is_ipv6(whole):
            return nat6_translate(engine, whole, direction)
        return kind
    verdict = address_check(&engine.settings, found)
    if verdict >= DROP_FIRST:
        return verdict
    if kind == PACKET_FRAGMENT and not is_routed(&engine.settings, found):
        return _gather(engine, whole, direction)
    verdict = _translate(engine, whole, found, kind, direction, False)
    if verdict < DROP_FIRST and found.wire_size > engine.settings.mtu[<int>_egress(verdict, direction)]:
        return _cut(engine, whole, found, verdict, direction)
    return verdict


cdef Direction _egress(uint8_t verdict, Direction direction) noexcept nogil:
    """Where a packet with this verdict goes."""
    return INBOUND if verdict == VERDICT_HAIRPIN else direction


cdef uint8_t _cut(
    nat_engine *engine, frame *whole, const packet *found, uint8_t verdict, Direction direction
) noexcept nogil:
    """Emit a translated packet as fragments that the egress side takes (RFC 4787 REQ-13)."""
    cdef Direction towards = _egress(verdict, direction)
    cdef uint64_t sender = <uint32_t>found.key_addresses
    if direction == OUTBOUND:
        sender = machine_of_ipv4(&engine.settings.machines, whole, <uint32_t>sender)
    return fragment_emit(
        &engine.emitted, &engine.ids, whole, sender, towards,
        engine.settings.mtu[<int>towards],
    )


cdef uint8_t _gather(nat_engine *engine, const frame *part, Direction direction) noexcept nogil:
    """Keep a fragment; when it is the last of its datagram, translate that as one packet (RFC 4787 REQ-14)."""
    cdef frame joined
    cdef packet found
    cdef uint8_t verdict = reassembly_take(
        &engine.fragments, &engine.answers, part, direction, engine.now_ns, &joined
    )
    if verdict != VERDICT_FORWARD:
        return verdict
    verdict = packet_check(&joined, direction, IPV4_LENGTH_MAX, &found)
    if verdict < DROP_FIRST:
        verdict = _translate(engine, &joined, &found, verdict, direction, True)
    if verdict >= DROP_FIRST:
        return verdict
    return _cut(engine, &joined, &found, verdict, direction)


cdef uint8_t _translate(
    nat_engine *engine, frame *whole, packet *found, uint8_t kind, Direction direction, bint joined
) noexcept nogil:
    """*joined* packets were sent in fragments, and may be cut again whatever they say."""
    cdef uint8_t verdict
    if found.unusual & PACKET_LAST_HOP:
        if direction == OUTBOUND:
            icmp_refuse(&engine.answers, whole, INBOUND, ICMP_TIME_EXCEEDED, 0, 0, engine.now_ns)
        return DROP_TTL
    if is_routed(&engine.settings, found):
        return _route(engine, whole, found, direction)
    if kind == PACKET_OTHER:
        return DROP_UNKNOWN_PROTOCOL
    if kind == PACKET_ICMP:
        if icmp_is_error(found.l4):
            return icmp_error_translate(
                &engine.flows, whole, direction, engine.settings.mtu[<int>packet_back(found)]
            )
        verdict = query_check(found, ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY, 0)
        if verdict >= DROP_FIRST:
            return verdict
    found.half = conntrack_find(&engine.flows, found.key_addresses, found.key_rest)
    verdict = nat_admit(engine, whole, found)
    if verdict >= DROP_FIRST:
        return verdict
    if engine.flows.halves[found.half].flags & HALF_HAIRPIN:
        direction = INBOUND
    if not joined and not _fits(engine, whole, found, direction):
        return DROP_TOO_BIG
    return pass_any(engine, found)


cdef bint _fits(nat_engine *engine, const frame *whole, const packet *found, Direction towards) noexcept nogil:
    """Whether a packet can go out, whole or cut. Its sender is told if not (RFC 1191)."""
    cdef uint32_t mtu = engine.settings.mtu[<int>towards]
    if found.wire_size <= mtu or packet_may_fragment(found):
        return True
    icmp_refuse(
        &engine.answers, whole, packet_back(found), ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, mtu, engine.now_ns
    )
    return False


cdef uint8_t _route(nat_engine *engine, const frame *whole, packet *found, Direction direction) noexcept nogil:
    """Without translation, whatever the protocol (RFC 6888 REQ-6)."""
    if not _fits(engine, whole, found, direction):
        return DROP_TOO_BIG
    ipv4_decrement_ttl(found.ip, 0)
    return VERDICT_FORWARD
