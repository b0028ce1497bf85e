"""Interned IPv6 addresses: 16 bytes as a number of 32 bits, which tables keep where they keep IPv4 addresses.

Theory of operation
    A number reads as an IPv4 address of 240.0.0.0/8, which no packet may have: so one field holds addresses of both
    families, and nobody has to say which. It stays the address's as long as somebody holds it: flows hold those of
    their packets, guests their own, the engine its external ones. `address_find` takes no hold and adds nothing, so
    packets of no flow leave no trace. Holding and dropping an IPv4 address does nothing.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.dataplane.slot_index cimport SLOT_NONE, hash_mix, slot_index, slot_next
from arcbox_net.wire.checksum cimport checksum_fold
from arcbox_net.wire.octets cimport load_u32, store_u32

cdef enum:
    ADDRESS_NONE = 0
    ADDRESS_FIRST_OCTET = 240
    ADDRESS_ID_MASK = 0x00FFFFFF

cdef struct interned_address:
    uint64_t words[2]  # as they lie in a header
    uint32_t holders  # 0: free
    uint32_t next_free
    uint16_t sum_be  # of its 16-bit words, for checksum deltas

cdef struct address_table:
    interned_address *entries
    slot_index index
    uint64_t seed[2]
    uint32_t addresses_max
    uint32_t used  # entries that were ever given out
    uint32_t first_free
    uint32_t count


cdef bint address_table_init(address_table *table, uint32_t addresses_max, const uint64_t *seed) noexcept nogil
cdef void address_table_free(address_table *table) noexcept nogil
cdef uint32_t address_take(address_table *table, const uint8_t *octets) noexcept nogil
cdef void address_release(address_table *table, uint32_t number_be) noexcept nogil


cdef inline bint address_is_interned(uint32_t ip_be) noexcept nogil:
    return (<const uint8_t *>&ip_be)[0] == ADDRESS_FIRST_OCTET


cdef inline uint32_t address_number(uint32_t id) noexcept nogil:
    cdef uint32_t number_be
    store_u32(<uint8_t *>&number_be, <uint32_t>ADDRESS_FIRST_OCTET << 24 | id)
    return number_be


cdef inline interned_address *address_entry(const address_table *table, uint32_t number_be) noexcept nogil:
    # SAFETY: numbers come from `address_number` of ids below `used`.
    return &table.entries[load_u32(<const uint8_t *>&number_be) & ADDRESS_ID_MASK]


cdef inline uint32_t address_find(const address_table *table, const uint8_t *octets) noexcept nogil:
    """The number of the 16 bytes at *octets*, or ADDRESS_NONE."""
    cdef uint64_t words[2]
    cdef uint64_t hashed
    cdef uint32_t distance = 0, id
    memcpy(words, octets, sizeof(words))
    hashed = hash_mix(words[0], words[1], table.seed)
    while True:
        id = slot_next(&table.index, hashed, &distance)
        if id == SLOT_NONE:
            return ADDRESS_NONE
        if table.entries[id].words[0] == words[0] and table.entries[id].words[1] == words[1]:
            return address_number(id)


cdef inline const uint8_t *address_octets(const address_table *table, uint32_t number_be) noexcept nogil:
    """The 16 bytes of an interned address."""
    return <const uint8_t *>address_entry(table, number_be).words


cdef inline uint16_t address_sum_be(const address_table *table, uint32_t ip_be) noexcept nogil:
    """What an address of either family adds to a checksum."""
    return address_entry(table, ip_be).sum_be if address_is_interned(ip_be) else checksum_fold(ip_be)


cdef inline void address_hold(address_table *table, uint32_t ip_be) noexcept nogil:
    """Keep the number of an address that somebody holds already."""
    if address_is_interned(ip_be):
        address_entry(table, ip_be).holders += 1


cdef inline void address_drop(address_table *table, uint32_t ip_be) noexcept nogil:
    """End a hold. With the last one the number becomes free for another address."""
    if address_is_interned(ip_be):
        address_release(table, ip_be)
