"""Owners of IPv6 addresses come and go. Theory of operation: owners.pxd."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from arcbox_net.dataplane.address_table cimport (
    ADDRESS_ID_MASK, ADDRESS_NONE, address_number, address_release, address_table_free, address_table_init,
    address_take,
)
from arcbox_net.dataplane.notices cimport is_unheard
from arcbox_net.memory.table cimport table_allocate, table_release
from arcbox_net.wire.octets cimport load_u32


cdef bint owners_init(owner_table *table, const uint64_t *seed) noexcept nogil:
    """Nobody owns anything. False without memory; `owners_free` is due all the same."""
    memset(table, 0, sizeof(owner_table))
    table.owners = <owner *>table_allocate(OWNED_MAX * sizeof(owner))
    return address_table_init(&table.addresses, OWNED_MAX, seed) and table.owners != NULL


cdef void owners_free(owner_table *table) noexcept nogil:
    table_release(table.owners, OWNED_MAX * sizeof(owner))
    table.owners = NULL
    address_table_free(&table.addresses)


cdef bint owners_claim(owner_table *table, const uint8_t *address, uint16_t port, uint32_t now_s) noexcept nogil:
    """Give *address*, which nobody has, to *port*, for good if *now_s* is OWNED_STATIC. False: it has too many."""
    cdef uint32_t number_be, id
    if table.counts[port] == OWNED_PORT_MAX:
        return False
    number_be = address_take(&table.addresses, address)
    if number_be == ADDRESS_NONE:
        return False
    id = load_u32(<const uint8_t *>&number_be) & ADDRESS_ID_MASK
    table.owners[id].port = port
    table.owners[id].used_s = now_s
    table.owners[id].probed_s = 0
    table.counts[port] += 1
    return True


cdef bint owners_assign(owner_table *table, const uint8_t *address, uint16_t port) noexcept nogil:
    """Give *address* to *port* for good, unless it is another port's for good."""
    cdef owner *one = owners_find(table, address)
    if one != NULL:
        if one.used_s == OWNED_STATIC:
            return one.port == port
        _release(table, <uint32_t>(one - table.owners))
    return owners_claim(table, address, port, OWNED_STATIC)


cdef void owners_hear(
    owner_table *table, const uint8_t *address, uint16_t port, uint32_t used_s, uint32_t now_s
) noexcept nogil:
    """Another table has learned that *address* is *port*'s. Of two ports that claimed it, the lower number has it."""
    cdef owner *one = owners_find(table, address)
    cdef uint32_t probed_s = now_s  # what it was claimed by may have been a probe
    if one != NULL:
        if one.used_s == OWNED_STATIC or one.port < port:
            return
        if one.port == port:
            probed_s = one.probed_s
            used_s = max(used_s, one.used_s)
        _release(table, <uint32_t>(one - table.owners))
    if owners_claim(table, address, port, used_s):
        owners_find(table, address).probed_s = probed_s


cdef void owners_loosen_port(owner_table *table, uint16_t port, uint32_t now_s) noexcept nogil:
    """What *port* owns for good it owns from now on as if it had claimed it."""
    cdef uint32_t id
    for id in range(table.addresses.used):
        if table.addresses.entries[id].holders and table.owners[id].port == port:
            table.owners[id].used_s = max(table.owners[id].used_s, now_s)


cdef void owners_forget_port(owner_table *table, uint16_t port) noexcept nogil:
    """All that *port* owns is nobody's again: a walk of the whole table, for control's messages only."""
    cdef uint32_t id
    for id in range(table.addresses.used):
        if table.addresses.entries[id].holders and table.owners[id].port == port:
            _release(table, id)


cdef void owners_age(owner_table *table, uint32_t now_s, uint32_t budget) noexcept nogil:
    """Take away what was not used for long, looking at *budget* addresses."""
    cdef uint32_t _step, id
    cdef owner *one
    for _step in range(min(budget, table.addresses.used)):
        table.cursor = 0 if table.cursor + 1 >= table.addresses.used else table.cursor + 1
        id = table.cursor
        one = &table.owners[id]
        if not table.addresses.entries[id].holders or one.used_s == OWNED_STATIC:
            continue
        if is_unheard(one.used_s, now_s, OWNED_FOR_S):
            _release(table, id)


cdef void _release(owner_table *table, uint32_t id) noexcept nogil:
    table.counts[table.owners[id].port] -= 1
    address_release(&table.addresses, address_number(id))
