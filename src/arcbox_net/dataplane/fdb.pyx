"""Entries of the MAC table come and go. Theory of operation: fdb.pxd."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.notices cimport is_unheard
from arcbox_net.memory.table cimport table_allocate, table_release


cdef bint fdb_init(fdb *table, const uint64_t *seed) noexcept nogil:
    """An empty table. False without memory; `fdb_free` is due all the same."""
    memset(table, 0, sizeof(fdb))
    memcpy(table.seed, seed, sizeof(table.seed))
    table.slots = <uint64_t *>table_allocate(FDB_SLOTS * sizeof(uint64_t))
    table.heard_s = <uint32_t *>table_allocate(FDB_SLOTS * sizeof(uint32_t))
    return table.slots != NULL and table.heard_s != NULL


cdef void fdb_free(fdb *table) noexcept nogil:
    table_release(table.slots, FDB_SLOTS * sizeof(uint64_t))
    table_release(table.heard_s, FDB_SLOTS * sizeof(uint32_t))
    table.slots = NULL
    table.heard_s = NULL


cdef fdb_result fdb_insert_static(fdb *table, uint64_t mac, uint16_t port) noexcept nogil:
    """Give *mac* to *port* for good. FDB_TAKEN: it is another port's for good."""
    cdef uint32_t at = fdb_slot(table, mac)
    if at != FDB_NONE:
        if table.heard_s[at] == FDB_STATIC:
            return FDB_OK if <uint16_t>table.slots[at] == port else FDB_TAKEN
        _remove(table, at)
    return FDB_OK if _insert(table, mac, port, FDB_STATIC) else FDB_FULL


cdef fdb_result fdb_learn_new(
    fdb *table, uint64_t mac, uint16_t port, uint32_t limit, uint32_t now_s
) noexcept nogil:
    """*mac*, which nobody has, becomes *port*'s."""
    if table.learned >= FDB_LEARNED_MAX or table.port_learned[port] >= limit:
        return FDB_FULL
    if not _insert(table, mac, port, now_s):
        return FDB_FULL
    table.learned += 1
    table.port_learned[port] += 1
    return FDB_OK


cdef void fdb_hear(fdb *table, uint64_t mac, uint16_t port, uint32_t limit, uint32_t heard_s) noexcept nogil:
    """Another table has learned that *mac* is *port*'s. Of two ports that were learned, the lower number has it."""
    cdef uint32_t at = fdb_slot(table, mac)
    if at != FDB_NONE:
        if table.heard_s[at] == FDB_STATIC or <uint16_t>table.slots[at] < port:
            return
        if <uint16_t>table.slots[at] == port:
            heard_s = max(heard_s, table.heard_s[at])
        _remove(table, at)
    fdb_learn_new(table, mac, port, limit, heard_s)


cdef void fdb_forget_port(fdb *table, uint16_t port) noexcept nogil:
    """Remove all entries of *port*: a walk of the whole table, for control's messages only."""
    cdef uint32_t at = 0
    while at < FDB_SLOTS:
        if table.slots[at] != 0 and <uint16_t>table.slots[at] == port:
            _remove(table, at)  # what moved up into the gap is looked at next
        else:
            at += 1
    # An entry behind the last slot may have moved from the front, which was looked at before, to the end: it was
    # none of the port's then, and is none now.


cdef void fdb_age(fdb *table, uint32_t now_s, uint32_t budget) noexcept nogil:
    """Remove what was not heard for long, looking at *budget* slots."""
    cdef uint32_t _step, at
    for _step in range(budget):
        at = table.cursor
        if (
            table.slots[at] != 0
            and table.heard_s[at] != FDB_STATIC
            and is_unheard(table.heard_s[at], now_s, FDB_AGE_S)
        ):
            _remove(table, at)
        else:
            table.cursor = (at + 1) & (FDB_SLOTS - 1)


cdef bint _insert(fdb *table, uint64_t mac, uint16_t port, uint32_t heard_s) noexcept nogil:
    cdef uint32_t home = fdb_home(table, mac), distance, at
    for distance in range(<uint32_t>FDB_REACH):
        at = (home + distance) & (FDB_SLOTS - 1)
        if table.slots[at] == 0:
            table.slots[at] = mac << 16 | port
            table.heard_s[at] = heard_s
            return True
    return False


cdef void _remove(fdb *table, uint32_t gap) noexcept nogil:
    """Empty the slot at *gap*, and move up those behind it that are not at home."""
    cdef uint32_t at = gap, home
    if table.heard_s[gap] != FDB_STATIC:
        table.learned -= 1
        table.port_learned[<uint16_t>table.slots[gap]] -= 1
    while True:  # ends: half of the slots are empty
        at = (at + 1) & (FDB_SLOTS - 1)
        if table.slots[at] == 0:
            break
        home = fdb_home(table, table.slots[at] >> 16)
        if ((at - home) & (FDB_SLOTS - 1)) >= ((at - gap) & (FDB_SLOTS - 1)):
            table.slots[gap] = table.slots[at]
            table.heard_s[gap] = table.heard_s[at]
            gap = at
    table.slots[gap] = 0
    table.heard_s[gap] = 0
