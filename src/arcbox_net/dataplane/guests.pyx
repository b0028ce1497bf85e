"""Knowing guests from their first packet until they hold nothing any more."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.address_table cimport address_drop, address_hold
from arcbox_net.dataplane.slot_index cimport (
    SLOT_NONE, hash_mix, slot_index_free, slot_index_init, slot_insert, slot_next, slot_remove,
)


cdef bint guests_init(guest_table *table, const guest_quotas *quotas, const uint64_t *seed) noexcept nogil:
    """False without memory; `guests_free` is due all the same."""
    cdef int i
    memset(table, 0, sizeof(guest_table))
    table.quotas = quotas[0]
    memcpy(table.seed, seed, sizeof(table.seed))
    table.entries = <guest *>calloc(GUESTS_MAX, sizeof(guest))
    if table.entries == NULL or not slot_index_init(&table.index, GUESTS_MAX, GUESTS_MAX):
        return False
    for i in range(GUESTS_MAX):
        table.entries[i].next_free = <uint16_t>(i + 1 if i + 1 < GUESTS_MAX else GUEST_NONE)
    return True


cdef void guests_free(guest_table *table) noexcept nogil:
    free(table.entries)
    slot_index_free(&table.index)
    table.entries = NULL


cdef uint16_t guest_find(const guest_table *table, uint32_t ip_be) noexcept nogil:
    """The guest with this inside address, or GUEST_NONE."""
    cdef uint64_t hashed = hash_mix(ip_be, 0, table.seed)
    cdef uint32_t distance = 0
    cdef uint32_t id = slot_next(&table.index, hashed, &distance)
    while id != SLOT_NONE and table.entries[id].ip_be != ip_be:
        id = slot_next(&table.index, hashed, &distance)
    return <uint16_t>id


cdef uint16_t guest_open(guest_table *table, uint32_t ip_be) noexcept nogil:
    """The guest with this inside address, known from now on; GUEST_NONE when GUESTS_MAX hold something."""
    cdef uint16_t id = guest_find(table, ip_be)
    if id != GUEST_NONE or table.first_free == GUEST_NONE:
        return id
    id = table.first_free
    if not slot_insert(&table.index, hash_mix(ip_be, 0, table.seed), id):
        return GUEST_NONE
    table.first_free = table.entries[id].next_free
    memset(&table.entries[id], 0, sizeof(guest))
    table.entries[id].ip_be = ip_be
    table.entries[id].external = EXTERNAL_NONE
    table.count += 1
    if table.addresses != NULL:
        address_hold(table.addresses, ip_be)
    return id


cdef void guest_pair(guest_table *table, uint16_t id, uint8_t external) noexcept nogil:
    """Give the guest an external address, or EXTERNAL_NONE, in place of the one that it has."""
    cdef guest *who = &table.entries[id]
    if who.external != EXTERNAL_NONE:
        table.paired[who.external] -= 1
    who.external = external
    if external != EXTERNAL_NONE:
        table.paired[external] += 1


cdef void guest_settle(guest_table *table, uint16_t id) noexcept nogil:
    """Forget the guest if it holds nothing."""
    cdef guest *who = &table.entries[id]
    if who.flows | who.incoming | who.statics | who.ports[SPACE_TCP] | who.ports[SPACE_UDP] | who.ports[SPACE_ICMP]:
        return
    guest_pair(table, id, EXTERNAL_NONE)
    slot_remove(&table.index, hash_mix(who.ip_be, 0, table.seed), id)
    who.next_free = table.first_free
    table.first_free = id
    table.count -= 1
    if table.addresses != NULL:
        address_drop(table.addresses, who.ip_be)
