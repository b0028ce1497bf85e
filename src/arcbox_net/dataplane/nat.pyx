"""A burst of frames through the NAT: check, find the flow, rewrite.

Theory of operation
    A burst is taken in chunks, and each step is done for the whole chunk before the next: the memory that a step
    needs was asked for a step before, so that 64 packets wait for it together.

        check and hash ──▶ where the index says the flow is ──▶ compare the key, track, rewrite, count
                              └─ nowhere: what opening one reads ─┘

    Steps go on in the order of the frames. What is no plain packet of a known flow goes to `nat_slow.pyx` when its
    turn comes in the last step: it sees what the packets ahead of it did, and packets of a flow stay in order.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.prefetch cimport abx_prefetch
from arcbox_net.dataplane.conntrack cimport (
    conntrack, conntrack_candidate, conntrack_expire, conntrack_hash, conntrack_prefetch, conntrack_verify,
)
from arcbox_net.dataplane.emitter cimport emitter_reset
from arcbox_net.dataplane.engine_state cimport nat_engine, nat_set_time
from arcbox_net.dataplane.flow cimport HALF_ATTENTION, HALF_HAIRPIN, HALF_NONE, half_flow
from arcbox_net.dataplane.mapping cimport mapping_expire
from arcbox_net.dataplane.nat_ahead cimport opening, opening_begin, openings_prepare
from arcbox_net.dataplane.nat_slow cimport nat_slow
from arcbox_net.dataplane.packet cimport PACKET_FLOW, PACKET_NUMBERED, packet, packet_check
from arcbox_net.dataplane.pass_flow cimport pass_flow
from arcbox_net.dataplane.reassembly cimport reassembly_expire
from arcbox_net.dataplane.unsolicited cimport unsolicited_refuse
from arcbox_net.dataplane.verdict cimport DROP_FRAGMENT_TIMEOUT, OUTBOUND, Direction
from arcbox_net.memory.frame cimport frame

cdef enum:
    CHUNK = 64
    AHEAD = 16  # frames whose headers are on their way while one is checked


cdef void nat_burst(
    nat_engine *engine, frame *frames, uint32_t count, Direction direction, uint64_t now_ns, uint8_t *verdicts
) noexcept nogil:
    """Translate up to BURST_MAX frames in place; a verdict for each. What it makes is in `engine.emitted` until the
    next burst.
    """
    cdef uint32_t done = 0, size
    nat_set_time(engine, now_ns)
    emitter_reset(&engine.emitted)
    while done < count:
        size = min(count - done, <uint32_t>CHUNK)
        _chunk(engine, frames + done, size, direction, verdicts + done)
        done += size


cdef uint32_t nat_expire(nat_engine *engine, uint64_t now_ns, uint32_t budget) noexcept nogil:
    """Close flows, mappings and datagrams whose time is over, looking at *budget* of each; the flows closed."""
    nat_set_time(engine, now_ns)
    emitter_reset(&engine.emitted)
    mapping_expire(&engine.mappings, engine.now_s, budget)
    engine.verdicts[<int>DROP_FRAGMENT_TIMEOUT] += reassembly_expire(
        &engine.fragments, &engine.answers, engine.now_ns, budget
    )
    unsolicited_refuse(&engine.unsolicited, &engine.answers, engine.now_ns, budget)
    return conntrack_expire(&engine.flows, engine.now_s, budget)


cdef void _chunk(
    nat_engine *engine, frame *frames, uint32_t count, Direction direction, uint8_t *verdicts
) noexcept nogil:
    cdef packet packets[CHUNK]
    cdef opening openings[CHUNK]
    cdef conntrack *flows = &engine.flows
    cdef uint32_t mtu = engine.settings.mtu[<int>direction]
    cdef uint32_t opening_count = 0
    cdef uint32_t i
    for i in range(min(count, <uint32_t>AHEAD)):
        abx_prefetch(frames[i].data)
    for i in range(count):
        if i + AHEAD < count:
            abx_prefetch(frames[i + AHEAD].data)
        verdicts[i] = packet_check(&frames[i], direction, mtu, &packets[i])
        if verdicts[i] == PACKET_FLOW:
            packets[i].hash = conntrack_hash(flows, packets[i].key_addresses, packets[i].key_rest)
            conntrack_prefetch(flows, packets[i].hash)
    for i in range(count):
        if verdicts[i] == PACKET_FLOW:
            packets[i].half = conntrack_candidate(flows, packets[i].hash)
            if packets[i].half == HALF_NONE and direction == OUTBOUND:
                opening_begin(&engine.mappings, &openings[opening_count], &packets[i])
                opening_count += 1
    openings_prepare(engine, openings, opening_count)
    for i in range(count):
        verdicts[i] = _finish(engine, &frames[i], &packets[i], verdicts[i], direction)
        engine.verdicts[verdicts[i]] += 1


cdef inline uint8_t _finish(
    nat_engine *engine, frame *whole, packet *found, uint8_t kind, Direction direction
) noexcept nogil:
    cdef half_flow *half
    if kind == PACKET_FLOW and found.unusual & ~PACKET_NUMBERED == 0:
        found.half = conntrack_verify(
            &engine.flows, found.half, found.hash, found.key_addresses, found.key_rest
        )
        if found.half != HALF_NONE:
            half = &engine.flows.halves[found.half]
            if half.flags & (HALF_ATTENTION | HALF_HAIRPIN) == 0:
                return pass_flow(engine, found, half)
    return nat_slow(engine, whole, found, kind, direction)
