"""Memory of a table of mappings, and what of its configuration may change while it is used.

An external address keeps its number for as long as one of its ports has an owner, also when it is not configured any
more: then none of its ports is given out, and guests that had it get another address for new mappings.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.dataplane.contacts cimport contacts_free, contacts_init
from arcbox_net.dataplane.guests cimport EXTERNAL_NONE, EXTERNALS_MAX, PORT_SPACES, guests_free, guests_init
from arcbox_net.dataplane.mapping cimport (
    MAPPING_IDS, POOL_SHARE, external_address, external_number, mapping, mapping_pool,
)
from arcbox_net.dataplane.port_choice cimport hold_release
from arcbox_net.dataplane.port_hold cimport port_hold
from arcbox_net.dataplane.port_pool cimport (
    ALL_KINDS, PLACES, POOL_WORDS, pool_count, pool_init, pool_take, port_pool, port_range,
)
from arcbox_net.dataplane.slot_index cimport slot_index_free, slot_index_init


cdef bint mapping_init(mapping_table *table, const mapping_config *config) noexcept nogil:
    """Ready for use, or False without memory; `mapping_free` is due all the same."""
    memset(table, 0, sizeof(mapping_table))
    table.mappings_max = config.mappings_max
    memcpy(table.random.key, &config.seed[0], sizeof(table.random.key))
    memcpy(table.seed, &config.seed[2], sizeof(table.seed))
    # Room for every address that a change may bring: a page that is not written takes no memory.
    table.entries = <mapping *>calloc(MAPPING_IDS, sizeof(mapping))
    table.pools = <mapping_pool *>calloc(EXTERNALS_MAX * PORT_SPACES, sizeof(mapping_pool))
    if table.entries == NULL or table.pools == NULL:
        return False
    return (
        slot_index_init(&table.outbound, config.mappings_max, MAPPING_IDS)
        and guests_init(&table.guests, &config.quotas, table.seed)
        and contacts_init(&table.contacts, 0, table.seed)
        and mapping_reconfigure(table, config)
    )


cdef void mapping_free(mapping_table *table) noexcept nogil:
    cdef uint32_t i
    if table.pools != NULL:
        for i in range(<uint32_t>(EXTERNALS_MAX * PORT_SPACES)):
            free(table.pools[i].on_hold.holds)
    free(table.pools)
    free(table.entries)
    slot_index_free(&table.outbound)
    guests_free(&table.guests)
    contacts_free(&table.contacts)
    memset(table, 0, sizeof(mapping_table))


cdef bint mapping_reconfigure(mapping_table *table, const mapping_config *config) noexcept nogil:
    """Take over all of *config* but `mappings_max` and `seed`. Live mappings keep their ports until they end.

    False, and nothing is changed, without memory, or if there were more than EXTERNALS_MAX addresses, the ones counted
    that are not configured any more and whose mappings live.
    """
    cdef uint32_t numbers[EXTERNALS_MAX]
    cdef uint32_t i
    cdef const external_address *external
    if not _numbers_for(table, config, numbers):
        return False
    if config.contacts_max and table.contacts.contacts_max == 0:
        if not contacts_init(&table.contacts, config.contacts_max, table.seed):
            return False
    table.hold_down_s = config.hold_down_s
    table.filter = config.filter
    table.preserve_ports = config.preserve_ports
    table.keep_parity = config.keep_parity
    table.guests.quotas = config.quotas
    table.guests.addresses = config.addresses
    memset(table.configured, 0, sizeof(table.configured))
    for i in range(config.external_count):
        external = &config.externals[i]
        table.externals_be[numbers[i]] = external.ip_be
        table.configured[numbers[i]] = True
        table.external_count = max(table.external_count, numbers[i] + 1)
        _external_ranges(table, numbers[i], &config.ranges[external.first_range], external.range_count)
    for i in range(table.external_count):
        if not table.configured[i]:
            _external_ranges(table, i, NULL, 0)
    return True


cdef bint _numbers_for(mapping_table *table, const mapping_config *config, uint32_t *numbers) noexcept nogil:
    """The number that each configured address has, or is going to have; and memory for its holds."""
    cdef bint claimed[EXTERNALS_MAX]
    cdef uint32_t i
    memset(claimed, 0, sizeof(claimed))
    for i in range(config.external_count):
        numbers[i] = external_number(table, config.externals[i].ip_be)
        if numbers[i] != EXTERNAL_NONE:
            claimed[numbers[i]] = True
    for i in range(config.external_count):
        if numbers[i] == EXTERNAL_NONE:
            numbers[i] = _vacant_number(table, claimed)
            if numbers[i] == EXTERNAL_NONE or not _holds_allocate(table, numbers[i]):
                return False
            claimed[numbers[i]] = True
    return True


cdef uint32_t _vacant_number(const mapping_table *table, const bint *claimed) noexcept nogil:
    cdef uint32_t number
    for number in range(<uint32_t>EXTERNALS_MAX):
        if claimed[number] or table.guests.paired[number]:  # a paired guest may be of the other IP version
            continue
        if number >= table.external_count or _is_empty(table, number):
            return number
    return EXTERNAL_NONE


cdef bint _is_empty(const mapping_table *table, uint32_t external) noexcept nogil:
    """Whether no port of the address has an owner."""
    cdef uint32_t i
    cdef uint64_t live = 0
    for i in range(<uint32_t>(PORT_SPACES * POOL_WORDS)):
        live |= table.pools[external * PORT_SPACES + i // POOL_WORDS].live[i % POOL_WORDS]
    return live == 0


cdef bint _holds_allocate(mapping_table *table, uint32_t external) noexcept nogil:
    cdef mapping_pool *pools = &table.pools[external * PORT_SPACES]
    cdef int space
    for space in range(PORT_SPACES):
        if pools[space].on_hold.holds == NULL:
            pools[space].on_hold.holds = <port_hold *>calloc(PLACES, sizeof(port_hold))
        if pools[space].on_hold.holds == NULL:
            return False
    return True


cdef void _external_ranges(
    mapping_table *table, uint32_t external, const port_range *ranges, uint32_t count
) noexcept nogil:
    cdef port_pool ports
    cdef int space
    pool_init(&ports, ranges, count)
    for space in range(PORT_SPACES):
        _pool_replace(table, external * PORT_SPACES + space, &ports)


cdef void _pool_replace(mapping_table *table, uint32_t number, const port_pool *ports) noexcept nogil:
    """Give a pool the ranges of *ports*. What has an owner or is on hold stays so; a hold outside the ranges ends."""
    cdef mapping_pool *pool = &table.pools[number]
    cdef uint64_t taken[POOL_WORDS]
    cdef uint64_t places
    cdef int word
    for word in range(POOL_WORDS):
        places = pool.ports.usable[word] & ~(pool.ports.free[word] | pool.live[word] | ports.usable[word])
        while places:
            hold_release(table, number, word * 64 + abx_trailing_zeros_u64(places))
            places &= places - 1
        taken[word] = (pool.ports.usable[word] & ~pool.ports.free[word]) | pool.live[word]
    pool.ports = ports[0]
    pool.share = max(pool_count(ports, ALL_KINDS) // POOL_SHARE, 1)
    for word in range(POOL_WORDS):
        places = taken[word] & pool.ports.free[word]
        while places:
            pool_take(&pool.ports, word * 64 + abx_trailing_zeros_u64(places))
            places &= places - 1
