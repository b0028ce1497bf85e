"""Finding a connection by its addresses and ports, in a table of the door that has it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from arcbox_net.relay.door cimport FLOW_BUCKETS, relay_door
from arcbox_net.relay.flow cimport ADDRESS_BYTES, gate_flow
from arcbox_net.relay.guests cimport address_hash


cdef inline uint32_t flow_hash(
    relay_door *door, const uint8_t *src, const uint8_t *dst, uint16_t src_port, uint16_t dst_port
) noexcept nogil:
    cdef uint64_t seed = door.guests.seed
    seed += (<uint64_t>src_port << 16) | dst_port
    return address_hash(seed + address_hash(seed, src), dst)


cdef inline gate_flow *flow_find(
    relay_door *door, uint32_t hashed, const uint8_t *src, const uint8_t *dst, uint16_t src_port,
    uint16_t dst_port
) noexcept nogil:
    cdef gate_flow *flow = door.flows[hashed % FLOW_BUCKETS]
    while flow != NULL:
        if (
            flow.hash == hashed
            and flow.src_port == src_port
            and flow.dst_port == dst_port
            and memcmp(flow.src, src, ADDRESS_BYTES) == 0
            and memcmp(flow.dst, dst, ADDRESS_BYTES) == 0
        ):
            return flow
        flow = flow.next
    return NULL


cdef inline void flow_insert(relay_door *door, gate_flow *flow) noexcept nogil:
    flow.next = door.flows[flow.hash % FLOW_BUCKETS]
    door.flows[flow.hash % FLOW_BUCKETS] = flow


cdef inline void flow_remove(relay_door *door, gate_flow *flow) noexcept nogil:
    cdef gate_flow **at = &door.flows[flow.hash % FLOW_BUCKETS]
    while at[0] != flow:
        at = &at[0].next
    at[0] = flow.next
