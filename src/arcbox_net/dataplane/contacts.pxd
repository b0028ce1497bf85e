"""Which remote addresses each mapping has spoken to, and in how many flows: whom address-dependent filtering admits.

Only flows of the guest's own doing count. There is at most one contact for each of them, and two for one between
guests, so a table for twice as many contacts as the engine has flows is never full; were it full, a new address would
not be admitted.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.slot_index cimport (
    SLOT_NONE, hash_mix, slot_index, slot_index_free, slot_index_init, slot_insert, slot_next, slot_remove,
)

cdef enum:
    CONTACT_NONE = 0xFFFFFFFF

cdef struct contact:
    uint32_t mapping
    uint32_t remote_ip_be
    uint32_t flows  # 0: free
    uint32_t next_free

cdef struct contact_table:
    contact *entries
    slot_index index
    uint64_t seed[2]
    uint32_t contacts_max  # 0: nobody asks, and nothing is kept
    uint32_t used  # entries that were ever given out
    uint32_t first_free


cdef inline bint contacts_init(contact_table *table, uint32_t contacts_max, const uint64_t *seed) noexcept nogil:
    """False without memory; `contacts_free` is due all the same."""
    memset(table, 0, sizeof(contact_table))
    memcpy(table.seed, seed, sizeof(table.seed))
    table.first_free = CONTACT_NONE
    if contacts_max == 0:
        return True
    table.entries = <contact *>calloc(contacts_max, sizeof(contact))
    if table.entries == NULL or not slot_index_init(&table.index, contacts_max, contacts_max):
        return False
    table.contacts_max = contacts_max
    return True


cdef inline void contacts_free(contact_table *table) noexcept nogil:
    free(table.entries)
    table.entries = NULL
    if table.index.slots != NULL:
        slot_index_free(&table.index)
    table.contacts_max = 0


cdef inline uint64_t contact_hash(
    const contact_table *table, uint32_t mapping, uint32_t remote_ip_be
) noexcept nogil:
    return hash_mix(mapping, remote_ip_be, table.seed)


cdef inline uint32_t contact_find(const contact_table *table, uint32_t mapping, uint32_t remote_ip_be) noexcept nogil:
    cdef uint64_t hashed = contact_hash(table, mapping, remote_ip_be)
    cdef uint32_t distance = 0
    cdef uint32_t id
    if table.contacts_max == 0:
        return CONTACT_NONE
    id = slot_next(&table.index, hashed, &distance)
    while id != SLOT_NONE:
        if table.entries[id].mapping == mapping and table.entries[id].remote_ip_be == remote_ip_be:
            break
        id = slot_next(&table.index, hashed, &distance)
    return id


cdef inline void contact_add(contact_table *table, uint32_t mapping, uint32_t remote_ip_be) noexcept nogil:
    """One more flow between the two."""
    cdef uint32_t id = contact_find(table, mapping, remote_ip_be)
    if id == CONTACT_NONE:
        id = contact_take(table, mapping, remote_ip_be)
    if id != CONTACT_NONE:
        table.entries[id].flows += 1


cdef inline uint32_t contact_take(contact_table *table, uint32_t mapping, uint32_t remote_ip_be) noexcept nogil:
    cdef uint32_t id = table.first_free
    if id == CONTACT_NONE and table.used < table.contacts_max:
        id = table.used
    if id == CONTACT_NONE or not slot_insert(&table.index, contact_hash(table, mapping, remote_ip_be), id):
        return CONTACT_NONE
    if id == table.used:
        table.used += 1
    else:
        table.first_free = table.entries[id].next_free
    table.entries[id].mapping = mapping
    table.entries[id].remote_ip_be = remote_ip_be
    table.entries[id].flows = 0
    return id


cdef inline void contact_drop(contact_table *table, uint32_t mapping, uint32_t remote_ip_be) noexcept nogil:
    """One flow less between the two."""
    cdef uint32_t id = contact_find(table, mapping, remote_ip_be)
    if id == CONTACT_NONE:
        return
    table.entries[id].flows -= 1
    if table.entries[id].flows == 0:
        slot_remove(&table.index, contact_hash(table, mapping, remote_ip_be), id)
        table.entries[id].next_free = table.first_free
        table.first_free = id
