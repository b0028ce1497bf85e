"""Numbers for IPv6 addresses, for as long as they are held. Theory of operation: address_table.pxd."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.slot_index cimport (
    hash_mix, slot_index_free, slot_index_init, slot_insert, slot_remove,
)
from arcbox_net.memory.table cimport table_allocate, table_release
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    ID_NONE = 0xFFFFFFFF


cdef bint address_table_init(address_table *table, uint32_t addresses_max, const uint64_t *seed) noexcept nogil:
    """Make room for 1 to SLOT_IDS_MAX addresses. False without memory; `address_table_free` is due all the same."""
    memset(table, 0, sizeof(address_table))
    memcpy(table.seed, seed, sizeof(table.seed))
    table.addresses_max = addresses_max
    table.first_free = ID_NONE
    table.entries = <interned_address *>table_allocate(_bytes(table))
    return slot_index_init(&table.index, addresses_max, addresses_max) and table.entries != NULL


cdef void address_table_free(address_table *table) noexcept nogil:
    table_release(table.entries, _bytes(table))
    if table.index.slots != NULL:
        slot_index_free(&table.index)
    memset(table, 0, sizeof(address_table))


cdef uint32_t address_take(address_table *table, const uint8_t *octets) noexcept nogil:
    """Hold the 16 bytes at *octets*, and return their number. ADDRESS_NONE: there is no room for another address."""
    cdef uint32_t number_be = address_find(table, octets)
    cdef uint32_t id
    cdef interned_address *entry
    if number_be != ADDRESS_NONE:
        address_hold(table, number_be)
        return number_be
    id = table.first_free
    if id == ID_NONE and table.used < table.addresses_max:
        id = table.used
    if id == ID_NONE or not slot_insert(&table.index, _hash(table, octets), id):
        return ADDRESS_NONE
    entry = &table.entries[id]
    if id == table.used:
        table.used += 1
    else:
        table.first_free = entry.next_free
    memcpy(entry.words, octets, IPV6_ADDRESS_BYTES)
    entry.sum_be = checksum_fold(checksum_add(0, octets, IPV6_ADDRESS_BYTES))
    entry.holders = 1
    table.count += 1
    return address_number(id)


cdef void address_release(address_table *table, uint32_t number_be) noexcept nogil:
    """End a hold of an interned address."""
    cdef interned_address *entry = address_entry(table, number_be)
    cdef uint32_t id = <uint32_t>(entry - table.entries)
    entry.holders -= 1
    if entry.holders:
        return
    slot_remove(&table.index, _hash(table, <const uint8_t *>entry.words), id)
    entry.next_free = table.first_free
    table.first_free = id
    table.count -= 1


cdef uint64_t _hash(const address_table *table, const uint8_t *octets) noexcept nogil:
    cdef uint64_t words[2]
    memcpy(words, octets, sizeof(words))
    return hash_mix(words[0], words[1], table.seed)


cdef size_t _bytes(const address_table *table) noexcept nogil:
    return <size_t>table.addresses_max * sizeof(interned_address)
