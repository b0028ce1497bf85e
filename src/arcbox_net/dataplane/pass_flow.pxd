"""A packet of a known flow: whether its state allows it, then the rewrite, and the counters."""

from libc.stdint cimport uint8_t

from arcbox_net.dataplane.tcp_state cimport flow_track
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow cimport HALF_HAIRPIN, half_count, half_flow
from arcbox_net.dataplane.fragment cimport fragment_number
from arcbox_net.dataplane.packet cimport PACKET_NUMBERED, packet
from arcbox_net.dataplane.rewrite cimport rewrite_flow, rewrite_query
from arcbox_net.dataplane.verdict cimport VERDICT_FORWARD, VERDICT_HAIRPIN
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP


cdef inline uint8_t track_flow(nat_engine *engine, packet *found, half_flow *half) noexcept nogil:
    """Count a packet of `found.half`, which is *half*; or why its state does not allow it."""
    cdef uint8_t verdict = flow_track(
        &engine.flows, found.half, found.tcp, found.l4, found.l4_size, engine.now_s
    )
    if verdict == VERDICT_FORWARD:
        half_count(half, found.size)
    return verdict


cdef inline uint8_t pass_flow(nat_engine *engine, packet *found, half_flow *half) noexcept nogil:
    """TCP or UDP of `found.half`; *half* is that one."""
    cdef uint8_t verdict = track_flow(engine, found, half)
    if verdict == VERDICT_FORWARD:
        rewrite_flow(found, half)
        if found.unusual & PACKET_NUMBERED:
            fragment_number(&engine.ids, found)
    return verdict


cdef inline uint8_t pass_any(nat_engine *engine, packet *found) noexcept nogil:
    """Of any flow: ICMP queries and hairpins too."""
    cdef half_flow *half = &engine.flows.halves[found.half]
    cdef uint8_t verdict = VERDICT_FORWARD
    if found.protocol == PROTOCOL_ICMP:
        track_flow(engine, found, half)
        rewrite_query(found, half)
        if found.unusual & PACKET_NUMBERED:
            fragment_number(&engine.ids, found)
    else:
        verdict = pass_flow(engine, found, half)
    if verdict == VERDICT_FORWARD and half.flags & HALF_HAIRPIN:
        return VERDICT_HAIRPIN
    return verdict
