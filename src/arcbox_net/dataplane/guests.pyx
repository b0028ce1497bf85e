"""Knowing guests, and the machines behind them, from their first packet until they hold nothing any more."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.address_table cimport address_drop, address_hold
from arcbox_net.dataplane.machine cimport machine_of_forwards
from arcbox_net.dataplane.slot_index cimport (
    SLOT_NONE, hash_mix, slot_index_free, slot_index_init, slot_insert, slot_next, slot_remove,
)
from arcbox_net.dataplane.verdict cimport DROP_GUEST_ADDRESSES, DROP_GUESTS_FULL

cdef enum:
    MACHINE_NONE = 0xFFFF


cdef bint guests_init(guest_table *table, const guest_quotas *quotas, const uint64_t *seed) noexcept nogil:
    """False without memory; `guests_free` is due all the same."""
    cdef int i
    memset(table, 0, sizeof(guest_table))
    table.quotas = quotas[0]
    memcpy(table.seed, seed, sizeof(table.seed))
    table.entries = <guest *>calloc(GUESTS_MAX, sizeof(guest))
    table.machines = <machine *>calloc(GUESTS_MAX, sizeof(machine))
    if (
        table.entries == NULL
        or table.machines == NULL
        or not slot_index_init(&table.index, GUESTS_MAX, GUESTS_MAX)
        or not slot_index_init(&table.machine_index, GUESTS_MAX, GUESTS_MAX)
    ):
        return False
    for i in range(GUESTS_MAX):
        table.entries[i].next_free = <uint16_t>(i + 1 if i + 1 < GUESTS_MAX else GUEST_NONE)
        table.machines[i].next_free = table.entries[i].next_free
    return True


cdef void guests_free(guest_table *table) noexcept nogil:
    free(table.entries)
    free(table.machines)
    slot_index_free(&table.index)
    slot_index_free(&table.machine_index)
    table.entries = NULL
    table.machines = NULL


cdef uint16_t guest_find(const guest_table *table, uint32_t ip_be, uint64_t machine_key) noexcept nogil:
    """The guest with this inside address at that machine, or GUEST_NONE."""
    cdef uint64_t hashed = hash_mix(ip_be, machine_key, table.seed)
    cdef uint32_t distance = 0
    cdef uint32_t id = slot_next(&table.index, hashed, &distance)
    while id != SLOT_NONE and (
        table.entries[id].ip_be != ip_be or table.entries[id].machine_key != machine_key
    ):
        id = slot_next(&table.index, hashed, &distance)
    return <uint16_t>id


cdef uint16_t guest_open(guest_table *table, uint32_t ip_be, uint64_t machine_key, uint8_t *why) noexcept nogil:
    """The guest with this inside address at that machine, known from now on; GUEST_NONE and in *why* the drop reason
    when GUESTS_MAX hold something, or MACHINE_GUESTS_MAX of that machine.
    """
    cdef uint16_t id = guest_find(table, ip_be, machine_key)
    cdef uint16_t forwards, of
    if id != GUEST_NONE:
        return id
    why[0] = DROP_GUESTS_FULL
    if table.first_free == GUEST_NONE:
        return GUEST_NONE
    of = _machine_open(table, machine_key, why)
    if of == MACHINE_NONE:
        return GUEST_NONE
    id = table.first_free
    if not slot_insert(&table.index, hash_mix(ip_be, machine_key, table.seed), id):
        _machine_settle(table, of)
        return GUEST_NONE
    table.first_free = table.entries[id].next_free
    memset(&table.entries[id], 0, sizeof(guest))
    table.entries[id].ip_be = ip_be
    table.entries[id].machine_key = machine_key
    table.entries[id].machine = of
    table.entries[id].external = EXTERNAL_NONE
    table.machines[of].guests += 1
    table.count += 1
    if table.addresses != NULL:
        address_hold(table.addresses, ip_be)
    forwards = guest_find(table, ip_be, machine_of_forwards(ip_be))
    if forwards != GUEST_NONE and forwards != id:  # RFC 4787 REQ-2: one external address for both
        guest_pair(table, id, table.entries[forwards].external)
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
    if who.statics | who.ports[SPACE_TCP] | who.ports[SPACE_UDP] | who.ports[SPACE_ICMP]:
        return
    guest_pair(table, id, EXTERNAL_NONE)
    slot_remove(&table.index, hash_mix(who.ip_be, who.machine_key, table.seed), id)
    who.next_free = table.first_free
    table.first_free = id
    table.count -= 1
    table.machines[who.machine].guests -= 1
    _machine_settle(table, who.machine)
    if table.addresses != NULL:
        address_drop(table.addresses, who.ip_be)


cdef uint16_t _machine_open(guest_table *table, uint64_t key, uint8_t *why) noexcept nogil:
    """The machine with this key, which may have one more guest; or MACHINE_NONE and why not."""
    cdef uint64_t hashed = hash_mix(key, 0, table.seed)
    cdef uint32_t distance = 0
    cdef uint32_t id = slot_next(&table.machine_index, hashed, &distance)
    while id != SLOT_NONE and table.machines[id].key != key:
        id = slot_next(&table.machine_index, hashed, &distance)
    if id != SLOT_NONE:
        if table.machines[id].guests < MACHINE_GUESTS_MAX:
            return <uint16_t>id
        why[0] = DROP_GUEST_ADDRESSES
        return MACHINE_NONE
    id = table.first_free_machine  # there is one: no machine is without a guest, and a guest is free
    if not slot_insert(&table.machine_index, hashed, id):
        return MACHINE_NONE
    table.first_free_machine = table.machines[id].next_free
    memset(&table.machines[id], 0, sizeof(machine))
    table.machines[id].key = key
    return <uint16_t>id


cdef void _machine_settle(guest_table *table, uint16_t id) noexcept nogil:
    """Forget the machine if it has no guest: then it has no flows and ports either."""
    cdef machine *who = &table.machines[id]
    if who.guests:
        return
    slot_remove(&table.machine_index, hash_mix(who.key, 0, table.seed), id)
    who.next_free = table.first_free_machine
    table.first_free_machine = id
