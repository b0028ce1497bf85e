"""The answer cache as the hot path sees it: entries, and how one is found and marked as used."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from arcbox_net.wire.siphash cimport siphash13


cdef enum:
    KEY_BYTES_MAX = 260  # the longest name, type, class and the flag byte


cdef struct ttl_place:
    uint32_t at
    uint32_t ttl

cdef struct entry:
    entry *next_in_bucket
    entry *newer
    entry *older
    uint64_t hash
    int64_t stored_ms
    int64_t expires_ms
    size_t size
    uint32_t body_len
    uint16_t flags
    uint16_t ancount
    uint16_t nscount
    uint16_t ttl_count
    uint16_t key_len
    uint8_t rcode
    uint8_t cuts_subtree

cdef struct table:
    entry **buckets
    uint64_t mask
    entry *newest
    entry *oldest
    uint64_t seed0
    uint64_t seed1
    uint32_t count
    uint32_t entries_max
    size_t bytes
    size_t bytes_max


cdef inline ttl_place *entry_ttls(entry *e) noexcept nogil:
    return <ttl_place *>(<uint8_t *>e + sizeof(entry))


cdef inline uint8_t *entry_key(entry *e) noexcept nogil:
    return <uint8_t *>e + sizeof(entry) + e.ttl_count * sizeof(ttl_place)


cdef inline uint8_t *entry_body(entry *e) noexcept nogil:
    return entry_key(e) + e.key_len


cdef inline entry *table_find(table *t, const uint8_t *key, uint16_t key_len) noexcept nogil:
    cdef uint64_t h = siphash13(t.seed0, t.seed1, key, key_len)
    cdef entry *e = t.buckets[h & t.mask]
    while e != NULL:
        if e.hash == h and e.key_len == key_len and memcmp(entry_key(e), key, key_len) == 0:
            return e
        e = e.next_in_bucket
    return NULL


cdef inline void list_unlink(table *t, entry *e) noexcept nogil:
    if e.newer != NULL:
        e.newer.older = e.older
    else:
        t.newest = e.older
    if e.older != NULL:
        e.older.newer = e.newer
    else:
        t.oldest = e.newer


cdef inline void list_push(table *t, entry *e) noexcept nogil:
    e.newer = NULL
    e.older = t.newest
    if t.newest != NULL:
        t.newest.newer = e
    else:
        t.oldest = e
    t.newest = e


cdef inline void table_touch(table *t, entry *e) noexcept nogil:
    """Make *e* the last that is evicted."""
    if t.newest != e:
        list_unlink(t, e)
        list_push(t, e)


cdef class AnswerCache:
    cdef table _table
    cdef bint _keeps_stale
