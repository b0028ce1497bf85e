"""Packets that are larger than the MTU, and the identifications of what fragments are made of; see fragment.pyx."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.verdict cimport Direction, Verdict
from arcbox_net.memory.frame cimport frame

cdef enum:
    FRAGMENT_IDS = 2048  # counters; addresses and a protocol always use the same

cdef struct fragment_ids:
    uint64_t seed[2]
    uint32_t next[FRAGMENT_IDS]


cdef void fragment_ids_init(fragment_ids *ids, const uint64_t *seed) noexcept nogil
cdef Verdict fragment_emit(
    emitter *e, fragment_ids *ids, frame *packet, uint64_t sender, Direction towards, uint32_t mtu
) noexcept nogil

cdef void fragment_number(fragment_ids *ids, packet *found) noexcept nogil


cdef inline uint32_t fragment_id_of(fragment_ids *ids, uint64_t ends, uint32_t count) noexcept nogil:
    """RFC 6864: the first of *count* that have not been used between these *ends* for the longest time."""
    cdef uint32_t *counter
    ends = (ends ^ ids.seed[0]) * <uint64_t>0x9E3779B97F4A7C15
    ends = (ends ^ (ends >> 29)) * <uint64_t>0xBF58476D1CE4E5B9
    counter = &ids.next[ends >> 53]
    counter[0] += count
    return counter[0] - count


cdef inline uint16_t fragment_id_next(
    fragment_ids *ids, uint32_t source_be, uint32_t destination_be, uint8_t protocol, uint32_t count
) noexcept nogil:
    """The first of *count* IPv4 identifications, of (source, destination, protocol)."""
    return <uint16_t>fragment_id_of(ids, (<uint64_t>source_be << 32 | destination_be) + protocol, count)
