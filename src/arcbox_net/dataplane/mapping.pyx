"""Making mappings for guests, keeping them while guests use them, and giving their ports back."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.dataplane.contacts cimport contact_add, contact_drop
from arcbox_net.dataplane.guests cimport (
    EXTERNAL_NONE, GUEST_NONE, flow_payer, guest, guest_flow_drop, guest_flow_take, guest_machine, guest_open,
    guest_pair, guest_port_drop, guest_port_take, guest_settle,
)
from arcbox_net.dataplane.port_choice cimport freest_external, holds_end, place_for, port_uncount
from arcbox_net.dataplane.port_hold cimport hold_begin
from arcbox_net.dataplane.port_pool cimport PLACE_NONE, bit_at, pool_return, port_at
from arcbox_net.dataplane.slot_index cimport slot_insert, slot_remove
from arcbox_net.dataplane.verdict cimport (
    DROP_GUEST_FLOWS, DROP_MAPPINGS_FULL, DROP_PORTS_EXHAUSTED,
)
from arcbox_net.wire.octets cimport order_u16


cdef uint32_t mapping_create(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be, uint64_t machine_key,
    uint32_t now_s, uint8_t *why
) noexcept nogil:
    """A mapping for an inside endpoint that has none, or MAPPING_NONE and in *why* the drop reason."""
    cdef uint32_t space = port_space(protocol)
    cdef uint32_t number, place
    cdef uint16_t id
    cdef guest *who
    if table.mappings >= table.mappings_max:
        why[0] = DROP_MAPPINGS_FULL
        return MAPPING_NONE
    id = guest_open(&table.guests, inside_ip_be, machine_key, why)
    if id == GUEST_NONE:
        return MAPPING_NONE
    who = &table.guests.entries[id]
    if guest_machine(&table.guests, id).flows >= table.guests.quotas.flows:
        why[0] = DROP_GUEST_FLOWS
        guest_settle(&table.guests, id)
        return MAPPING_NONE
    if who.external == EXTERNAL_NONE or not table.configured[who.external]:
        guest_pair(&table.guests, id, freest_external(table, inside_ip_be))
    if who.external == EXTERNAL_NONE:
        why[0] = DROP_PORTS_EXHAUSTED
        guest_settle(&table.guests, id)
        return MAPPING_NONE
    # Counted before it is found: holds of this guest may end on the way, and must not have it forgotten.
    guest_port_take(&table.guests, id, space)
    number = who.external * PORT_SPACES + space
    place = place_for(table, number, id, order_u16(inside_port_be), now_s, why)
    if place == PLACE_NONE:
        guest_port_drop(&table.guests, id, space)
        guest_settle(&table.guests, id)
        return MAPPING_NONE
    mapping_place(table, number << 16 | place, protocol, inside_ip_be, inside_port_be, id)
    if not mapping_publish(table, number << 16 | place):
        mapping_release(table, number << 16 | place, False, now_s)
        why[0] = DROP_MAPPINGS_FULL
        return MAPPING_NONE
    return number << 16 | place


cdef void mapping_place(
    mapping_table *table, uint32_t id, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be,
    uint16_t owner
) noexcept nogil:
    """Write the mapping *id*, whose port nobody else has."""
    cdef uint32_t number = id >> 16
    cdef uint32_t place = id & (PLACES - 1)
    cdef mapping *entry = &table.entries[id]
    entry.inside_ip_be = inside_ip_be
    entry.inside_port_be = inside_port_be
    entry.external_ip_be = table.externals_be[number // PORT_SPACES]
    entry.external_port_be = order_u16(port_at(place))
    entry.protocol = protocol
    entry.flags = MAPPING_LIVE
    entry.guest = owner
    entry.strong = entry.refs = 0
    table.pools[number].live[place >> 6] |= <uint64_t>1 << (place & 63)
    table.mappings += 1


cdef bint mapping_publish(mapping_table *table, uint32_t id) noexcept nogil:
    """Have packets of the inside endpoint find this mapping; False when the index has no room near its home."""
    return slot_insert(&table.outbound, _entry_hash(table, id), id)


cdef uint64_t _entry_hash(const mapping_table *table, uint32_t id) noexcept nogil:
    cdef const mapping *entry = &table.entries[id]
    return inside_hash(table, entry.protocol, entry.inside_ip_be, entry.inside_port_be)


cdef void mapping_withdraw(mapping_table *table, uint32_t id) noexcept nogil:
    """Have packets of the inside endpoint not find this mapping any more."""
    slot_remove(&table.outbound, _entry_hash(table, id), id)


cdef void mapping_release(mapping_table *table, uint32_t id, bint used, uint32_t now_s) noexcept nogil:
    """End a mapping that has no flows. If it was *used* its port is on hold now: for its guest, or for nobody."""
    cdef uint32_t number = id >> 16
    cdef uint32_t place = id & (PLACES - 1)
    cdef uint32_t space = number % PORT_SPACES
    cdef mapping_pool *pool = &table.pools[number]
    cdef mapping *entry = &table.entries[id]
    cdef guest *who = &table.guests.entries[entry.guest]
    cdef bint operators = (entry.flags & MAPPING_STATIC) != 0
    # A guest's holds are of the address that it shares a queue with; a port of the operator's may be of any.
    cdef bint own = used and not operators and who.external * PORT_SPACES + space == number
    mapping_withdraw(table, id)
    pool.live[place >> 6] &= ~(<uint64_t>1 << (place & 63))
    entry.flags = 0
    table.mappings -= 1
    own = own and bit_at(pool.ports.usable, place)
    if own:
        hold_begin(&pool.on_hold, &who.held[space], <uint16_t>place, entry.guest, now_s)
        return
    if used and bit_at(pool.ports.usable, place):
        hold_begin(&pool.on_hold, NULL, <uint16_t>place, GUEST_NONE, now_s)
    else:
        pool_return(&pool.ports, place)
    if operators:
        who.statics -= 1
        guest_settle(&table.guests, entry.guest)
    else:
        port_uncount(table, entry.guest, space)


cdef bint mapping_hold(
    mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong, flow_payer payer
) noexcept nogil:
    """Count a flow of the mapping with *remote_ip_be*; False, and nothing counted, when the guest is at its quota.

    Who pays for a flow does so when it becomes strong too.
    """
    cdef mapping *entry = &table.entries[id]
    if not guest_flow_take(&table.guests, entry.guest, payer):
        return False
    entry.refs += 1
    if strong:
        mapping_strengthen(table, id, remote_ip_be)
    return True


cdef void mapping_strengthen(mapping_table *table, uint32_t id, uint32_t remote_ip_be) noexcept nogil:
    """A flow that `mapping_hold` counted is of the guest's own doing from now on."""
    table.entries[id].strong += 1
    contact_add(&table.contacts, id, remote_ip_be)


cdef void mapping_drop(
    mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong, flow_payer payer, uint32_t now_s
) noexcept nogil:
    """Uncount a flow; with its last one the mapping ends, if it is not static."""
    cdef mapping *entry = &table.entries[id]
    guest_flow_drop(&table.guests, entry.guest, payer)
    if strong:
        entry.strong -= 1
        contact_drop(&table.contacts, id, remote_ip_be)
    entry.refs -= 1
    if entry.refs == 0 and not entry.flags & MAPPING_STATIC:
        mapping_release(table, id, True, now_s)


cdef void mapping_forget(mapping_table *table, uint32_t id) noexcept nogil:
    """Give back what `mapping_outbound` made, if no flow came of it: its port never was seen outside."""
    cdef const mapping *entry = &table.entries[id]
    if entry.refs == 0 and not entry.flags & MAPPING_STATIC:
        mapping_release(table, id, False, 0)


cdef uint32_t mapping_expire(mapping_table *table, uint32_t now_s, uint32_t budget) noexcept nogil:
    """End up to *budget* holds that are over; how many. Guests whose last port is on hold are known until then."""
    cdef uint32_t number
    cdef uint32_t ended = 0
    for number in range(table.external_count * PORT_SPACES):
        ended += holds_end(table, number, now_s, budget - ended)
    return ended


cdef uint32_t mapping_next(const mapping_table *table, uint32_t cursor) noexcept nogil:
    """The first live mapping from the number *cursor* on, or MAPPING_NONE."""
    cdef uint32_t word = cursor >> 6
    cdef uint32_t words = table.external_count * PORT_SPACES * POOL_WORDS
    cdef uint64_t ahead
    if word >= words:
        return MAPPING_NONE
    ahead = _live_word(table, word) >> (cursor & 63)
    if ahead:
        return cursor + abx_trailing_zeros_u64(ahead)
    for word in range(word + 1, words):
        ahead = _live_word(table, word)
        if ahead:
            return word * 64 + abx_trailing_zeros_u64(ahead)
    return MAPPING_NONE


cdef inline uint64_t _live_word(const mapping_table *table, uint32_t word) noexcept nogil:
    return table.pools[word // POOL_WORDS].live[word % POOL_WORDS]
