"""Flows that a burst is going to open: what opening them reads is asked for ahead of their turn.

Opening a flow reads one thing after the other, each from where the one before says: the inside endpoint's place in the
index of mappings, the mapping, the reply's place in the index of flows. Done for one packet at a time each is waited
for; so these are rounds over all packets that are likely to open one. Nothing is decided here.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from arcbox_net.abi.prefetch cimport abx_prefetch_to_write
from arcbox_net.dataplane.conntrack cimport conntrack_hash, conntrack_prefetch
from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.half_pair cimport endpoint, pair_addresses, pair_destination, pair_key
from arcbox_net.dataplane.mapping cimport inside_hash, mapping, mapping_table
from arcbox_net.dataplane.packet cimport packet, packet_source_be
from arcbox_net.dataplane.slot_index cimport SLOT_NONE, slot_first, slot_prefetch
from arcbox_net.dataplane.verdict cimport INBOUND

cdef struct opening:
    const packet *found
    uint64_t hash  # of the guest's endpoint
    uint32_t mapping  # that the endpoint has in all likelihood, or SLOT_NONE


cdef inline void opening_begin(const mapping_table *mappings, opening *one, const packet *found) noexcept nogil:
    one.found = found
    one.hash = inside_hash(mappings, found.protocol, packet_source_be(found), <uint16_t>found.key_rest)
    slot_prefetch(&mappings.outbound, one.hash)


cdef inline void _find_mapping(const mapping_table *mappings, opening *one) noexcept nogil:
    one.mapping = slot_first(&mappings.outbound, one.hash)
    if one.mapping != SLOT_NONE:
        abx_prefetch_to_write(&mappings.entries[one.mapping])


cdef inline void _find_reply(nat_engine *engine, const opening *one) noexcept nogil:
    cdef const mapping *entry
    cdef endpoint remote, external
    if one.mapping == SLOT_NONE:
        return
    entry = &engine.mappings.entries[one.mapping]
    remote = pair_destination(one.found.key_addresses, one.found.key_rest)
    external = endpoint(entry.external_ip_be, entry.external_port_be)
    conntrack_prefetch(
        &engine.flows,
        conntrack_hash(
            &engine.flows,
            pair_addresses(remote, external),
            pair_key(remote, external, one.found.protocol, INBOUND),
        ),
    )


cdef inline void openings_prepare(nat_engine *engine, opening *all, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        _find_mapping(&engine.mappings, &all[i])
    for i in range(count):
        _find_reply(engine, &all[i])
