"""Neighbours come and go. Theory of operation: neighbours.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.address_table cimport (
    ADDRESS_ID_MASK, ADDRESS_NONE, address_number, address_release, address_table_free, address_table_init,
    address_take,
)
from arcbox_net.dataplane.shares cimport (
    SHARE_NONE, share_give_back, share_take, sharer, shares_free, shares_init,
)
from arcbox_net.memory.table cimport table_allocate, table_release
from arcbox_net.wire.ethernet cimport MAC_BYTES
from arcbox_net.wire.octets cimport load_u32


cdef bint neighbours_init(
    neighbour_table *table, uint32_t shared_max, uint32_t reserved, const uint64_t *seed
) noexcept nogil:
    """An empty table for *shared_max* entries that ports make, and *reserved* that no port can use up.

    False without memory; `neighbours_free` is due all the same.
    """
    memset(table, 0, sizeof(neighbour_table))
    table.entries_max = shared_max + reserved
    table.entries = <neighbour *>table_allocate(table.entries_max * sizeof(neighbour))
    return (
        shares_init(&table.made, shared_max, seed)
        and address_table_init(&table.addresses, table.entries_max, seed)
        and table.entries != NULL
    )


cdef void neighbours_free(neighbour_table *table) noexcept nogil:
    table_release(table.entries, table.entries_max * sizeof(neighbour))
    table.entries = NULL
    address_table_free(&table.addresses)
    shares_free(&table.made)


cdef neighbour *neighbours_seek(
    neighbour_table *table, const uint8_t *key, const sharer *made_by, uint32_t now_s
) noexcept nogil:
    """A new entry for *key*, which has none, of *made_by*'s share, or of nobody's.

    NULL when the table or that share of it is full.
    """
    cdef uint32_t number_be, share = SHARE_NONE
    cdef neighbour *one
    if made_by != NULL:
        share = share_take(&table.made, made_by)
        if share == SHARE_NONE:
            return NULL
    number_be = address_take(&table.addresses, key)
    if number_be == ADDRESS_NONE:
        share_give_back(&table.made, share)
        return NULL
    one = &table.entries[load_u32(<const uint8_t *>&number_be) & ADDRESS_ID_MASK]
    memset(one, 0, sizeof(neighbour))
    one.share = share
    one.used_s = now_s
    return one


cdef neighbour *neighbours_tell(
    neighbour_table *table, const uint8_t *key, uint8_t state, const uint8_t *mac
) noexcept nogil:
    """*key* is in that state, and has *mac* if it is known, whatever is heard. NULL: the table is full."""
    cdef neighbour *one = neighbours_find(table, key)
    if one == NULL:
        one = neighbours_seek(table, key, NULL, 0)
    if one != NULL:
        memcpy(one.mac, mac, MAC_BYTES)
        one.told = True
        neighbour_enter(table, one, state)
    return one


cdef void neighbour_enter(neighbour_table *table, neighbour *one, uint8_t state) noexcept nogil:
    """Unsigned, so that one less than it was wraps to that."""
    table.unreachable += <uint32_t>(state == NEIGHBOUR_UNREACHABLE) - <uint32_t>(
        one.state == NEIGHBOUR_UNREACHABLE
    )
    one.state = state


cdef void neighbours_forget(neighbour_table *table, uint32_t id) noexcept nogil:
    neighbour_enter(table, &table.entries[id], NEIGHBOUR_SOUGHT)
    share_give_back(&table.made, table.entries[id].share)
    address_release(&table.addresses, address_number(id))


cdef void neighbours_doubt(neighbour_table *table, uint32_t now_s) noexcept nogil:
    """Ask all again that are used."""
    cdef uint32_t id
    for id in range(table.addresses.used):
        if table.addresses.entries[id].holders and table.entries[id].state == NEIGHBOUR_KNOWN:
            table.entries[id].heard_s = now_s - NEIGHBOUR_FRESH_S
            table.entries[id].probes = 0


cdef bint neighbour_is_due(neighbour *one, uint32_t now_s) noexcept nogil:
    """Whether it is to be asked now; counted if so."""
    cdef bint stale = (
        one.state == NEIGHBOUR_KNOWN and now_s - one.heard_s >= NEIGHBOUR_FRESH_S and not one.by_leg
    )
    if one.told or one.state != NEIGHBOUR_SOUGHT and not (stale and now_s - one.used_s < NEIGHBOUR_FRESH_S):
        return False
    if one.probes == NEIGHBOUR_PROBES or (one.probes and one.probed_s == now_s):
        return False
    one.probes += 1
    one.probed_s = now_s
    return True


cdef bint neighbour_is_over(const neighbour *one, uint32_t now_s) noexcept nogil:
    """Whether it did not answer, or nobody sends to it any more."""
    cdef uint32_t unused_s
    if one.told:
        return False
    if one.state == NEIGHBOUR_UNREACHABLE:
        return now_s - one.probed_s > NEIGHBOUR_REFUSED_S
    if one.probes == NEIGHBOUR_PROBES and now_s != one.probed_s:
        return True
    unused_s = NEIGHBOUR_BY_LEG_UNUSED_S if one.by_leg else NEIGHBOUR_UNUSED_S
    return one.state == NEIGHBOUR_KNOWN and now_s - one.used_s >= unused_s and now_s - one.heard_s >= unused_s
