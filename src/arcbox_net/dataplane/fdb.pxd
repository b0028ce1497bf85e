"""Which port has which MAC address.

Theory of operation
    Open addressing with linear probing and a seeded hash, never more than half full; an entry is at most FDB_REACH - 1
    slots from home, which at half load a hash that nobody can steer does not exceed in practice. Removal closes the gap
    (backward shift). A slot is `mac << 16 | port`, and 0 when empty: the address 00:00:00:00:00:00 is never put in.

    Static entries come with a port's binding, and take the place of learned ones. Learned entries are the first port's
    that sends from the address, for FDB_AGE_S after it was last heard there: no other port gets it before (L2).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.notices cimport notice_due
from arcbox_net.dataplane.port cimport PORT_NONE, PORTS_MAX
from arcbox_net.dataplane.slot_index cimport hash_mix

cdef enum:
    FDB_LEARNED_MAX = 3840
    FDB_LEARNED_GUEST_MAX = 8  # of a port whose binding is a guest's
    FDB_ENTRIES_MAX = 4096  # FDB_LEARNED_MAX and a static one of every port
    FDB_SLOTS = 8192
    FDB_REACH = 64
    FDB_NONE = 0xFFFFFFFF
    FDB_AGE_S = 300
    FDB_STATIC = 0  # as the second in which an entry was heard

cdef struct fdb:
    uint64_t *slots
    uint32_t *heard_s  # ahead of the clock by what a notice lasts, at most
    uint64_t seed[2]
    uint32_t learned
    uint32_t cursor  # of ageing
    uint32_t port_learned[PORTS_MAX]

cdef enum fdb_result:
    FDB_OK
    FDB_NEWS  # and others are to be told
    FDB_TAKEN  # it is another port's
    FDB_FULL  # the port's limit, or the table's


cdef bint fdb_init(fdb *table, const uint64_t *seed) noexcept nogil
cdef void fdb_free(fdb *table) noexcept nogil
cdef fdb_result fdb_insert_static(fdb *table, uint64_t mac, uint16_t port) noexcept nogil
cdef fdb_result fdb_learn_new(
    fdb *table, uint64_t mac, uint16_t port, uint32_t limit, uint32_t now_s
) noexcept nogil
cdef void fdb_hear(fdb *table, uint64_t mac, uint16_t port, uint32_t limit, uint32_t heard_s) noexcept nogil
cdef void fdb_forget_port(fdb *table, uint16_t port) noexcept nogil
cdef void fdb_age(fdb *table, uint32_t now_s, uint32_t budget) noexcept nogil


cdef inline uint32_t fdb_home(const fdb *table, uint64_t mac) noexcept nogil:
    return <uint32_t>hash_mix(mac, 0, table.seed) & (FDB_SLOTS - 1)


cdef inline uint32_t fdb_slot(const fdb *table, uint64_t mac) noexcept nogil:
    """Where *mac* is, or FDB_NONE."""
    cdef uint32_t home = fdb_home(table, mac), distance, at
    for distance in range(<uint32_t>FDB_REACH):
        at = (home + distance) & (FDB_SLOTS - 1)
        if table.slots[at] == 0:
            break
        if table.slots[at] >> 16 == mac:
            return at
    return FDB_NONE


cdef inline uint16_t fdb_find(const fdb *table, uint64_t mac) noexcept nogil:
    """The port that has *mac*, or PORT_NONE."""
    cdef uint32_t at = fdb_slot(table, mac)
    return PORT_NONE if at == FDB_NONE else <uint16_t>table.slots[at]


cdef inline fdb_result fdb_learn(
    fdb *table, uint64_t mac, uint16_t port, uint32_t limit, uint32_t now_s
) noexcept nogil:
    """*port* sent from *mac*, which is not zero; *limit* is that of its learned entries. *now_s* is not 0."""
    cdef uint32_t at = fdb_slot(table, mac)
    cdef bint news
    if at == FDB_NONE:
        return FDB_NEWS if fdb_learn_new(table, mac, port, limit, now_s) == FDB_OK else FDB_FULL
    if <uint16_t>table.slots[at] != port:
        return FDB_TAKEN
    if table.heard_s[at] == FDB_STATIC:
        return FDB_OK
    news = notice_due(table.heard_s[at], now_s)
    table.heard_s[at] = max(table.heard_s[at], now_s)
    return FDB_NEWS if news else FDB_OK
