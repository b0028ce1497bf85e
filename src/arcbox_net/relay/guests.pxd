"""The guests that a door has seen: what each holds of the relay, and how many ICMP errors it was sent.

A guest is a source address of IPv4, of which each has what DHCP gave it. Over IPv6 it takes as many addresses as it
likes, and is told by its MAC: the ruleset puts a hash of that into the lower half of the flow label
(rules_relay.py). A label of 0 says nothing, and the address counts.
One that holds nothing stays known until its place is needed, so that limits over time are not reset by a pause.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.relay.flow cimport (
    ADDRESS_BYTES, link_append, link_remove, list_empty, list_reset, relay_guest, relay_link,
)

cdef enum:
    GUESTS_MAX = 4096  # addresses that hold something at a time, of one door
    GUEST_BUCKETS = 1024
    NO_SOURCE = 0xFF  # begins a multicast address: nobody's own

cdef struct guest_table:
    relay_guest *entries
    relay_guest **buckets
    relay_link idle  # the one seen longest ago first
    uint32_t used  # entries that were ever given out
    uint64_t seed


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """Every bit of *x* matters to every bit of the result, also to the few that choose a bucket."""
    x = (x ^ (x >> 33)) * <uint64_t>0xFF51AFD7ED558CCD
    x = (x ^ (x >> 33)) * <uint64_t>0xC4CEB9FE1A85EC53
    return x ^ (x >> 33)


cdef inline uint32_t address_hash(uint64_t seed, const uint8_t *address) noexcept nogil:
    """Seeded: guests choose what goes in."""
    cdef uint64_t words[2]
    memcpy(words, address, ADDRESS_BYTES)
    return <uint32_t>mixed(mixed(seed ^ words[0]) ^ words[1])


cdef inline void guest_key_ipv6(uint8_t *key, const uint8_t *ip, const uint8_t *src) noexcept nogil:
    """Write who the IPv6 packet at *ip*, from *src*, counts for."""
    if ip[2] == 0 and ip[3] == 0:
        memcpy(key, src, ADDRESS_BYTES)
        return
    memset(key, 0, ADDRESS_BYTES)
    key[0] = NO_SOURCE
    memcpy(key + 1, ip + 2, 2)


cdef inline bint guests_prepare(guest_table *table, uint64_t seed) noexcept nogil:
    table.entries = <relay_guest *>calloc(GUESTS_MAX, sizeof(relay_guest))
    table.buckets = <relay_guest **>calloc(GUEST_BUCKETS, sizeof(relay_guest *))
    table.seed = seed
    table.used = 0
    list_reset(&table.idle)
    return table.entries != NULL and table.buckets != NULL


cdef inline void guests_release(guest_table *table) noexcept nogil:
    free(table.entries)
    free(table.buckets)
    table.entries = NULL
    table.buckets = NULL


cdef inline relay_guest *guest_take(guest_table *table) noexcept nogil:
    """A place for a new guest, or NULL when GUESTS_MAX guests hold something."""
    cdef relay_guest *guest
    cdef relay_guest **at
    if table.used < GUESTS_MAX:
        table.used += 1
        return &table.entries[table.used - 1]
    if list_empty(&table.idle):
        return NULL
    guest = <relay_guest *>table.idle.next
    link_remove(&guest.idle)
    at = &table.buckets[address_hash(table.seed, guest.address) % GUEST_BUCKETS]
    while at[0] != guest:
        at = &at[0].next
    at[0] = guest.next
    return guest


cdef inline relay_guest *guest_of(guest_table *table, const uint8_t *address) noexcept nogil:
    """The guest with that address; NULL when it is new and there is no place for it."""
    cdef relay_guest **bucket = &table.buckets[address_hash(table.seed, address) % GUEST_BUCKETS]
    cdef relay_guest *guest = bucket[0]
    while guest != NULL:
        if memcmp(guest.address, address, ADDRESS_BYTES) == 0:
            if guest.held == 0:
                link_remove(&guest.idle)
                link_append(&table.idle, &guest.idle)
            return guest
        guest = guest.next
    guest = guest_take(table)
    if guest == NULL:
        return NULL
    memcpy(guest.address, address, ADDRESS_BYTES)
    guest.held = guest.flows = guest.dials = guest.endpoints = guest.echoes = guest.answers = 0
    guest.next = bucket[0]
    bucket[0] = guest
    link_append(&table.idle, &guest.idle)
    return guest


cdef inline void guest_hold(guest_table *table, relay_guest *guest) noexcept nogil:
    if guest.held == 0:
        link_remove(&guest.idle)
    guest.held += 1


cdef inline void guest_drop(guest_table *table, relay_guest *guest) noexcept nogil:
    guest.held -= 1
    if guest.held == 0:
        link_append(&table.idle, &guest.idle)
