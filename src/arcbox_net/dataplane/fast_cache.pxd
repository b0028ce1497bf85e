"""The flows of the last packets, before the index is asked: sets of two entries of a tag and a half flow.

An entry is a guess: who asks compares the key on the half flow's own line, which the packet needs anyway. A hit saves
the index's line, but whether it is one cannot be predicted unless nearly all are, and a branch that is predicted
wrongly costs more than the index. Measured, the cache pays above fifteen hits in sixteen: with fewer, it is not asked
for a while.
"""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.dataplane.flow cimport HALF_NONE
from arcbox_net.memory.table cimport table_allocate, table_release

cdef enum:
    CACHE_ENTRIES_MAX = 65536
    CACHE_WINDOW = 4096  # lookups after which hits are weighed
    CACHE_MISSES_MAX = CACHE_WINDOW // 16  # of a window that paid
    CACHE_BYPASS = 15 * CACHE_WINDOW  # lookups without the cache after a window that did not pay

cdef struct cache_entry:
    uint32_t tag
    uint32_t half

cdef struct fast_cache:
    cache_entry *entries
    uint32_t size  # entries; 0: no cache
    uint32_t set_mask
    uint32_t second  # from a set's first entry to its second: 1, or 0 with a single entry
    bint asked
    uint32_t left  # lookups until `fast_cache_turn`
    uint32_t window_hits
    uint64_t lookups  # of all whole windows
    uint64_t hits
    uint64_t bypassed  # lookups


cdef inline bint fast_cache_init(fast_cache *cache, uint32_t size) noexcept nogil:
    """*size* is 0 or a power of two up to CACHE_ENTRIES_MAX. False: there is no memory."""
    cache.size = size
    cache.set_mask = size // 2 - 1 if size > 1 else 0
    cache.second = size > 1
    cache.asked = False
    cache.left = cache.window_hits = 0
    cache.lookups = cache.hits = cache.bypassed = 0
    if size == 0:
        cache.entries = NULL
        return True
    cache.entries = <cache_entry *>table_allocate(size * sizeof(cache_entry))
    return cache.entries != NULL


cdef inline void fast_cache_free(fast_cache *cache) noexcept nogil:
    table_release(cache.entries, cache.size * sizeof(cache_entry))
    cache.entries = NULL


cdef inline void fast_cache_turn(fast_cache *cache) noexcept nogil:
    """The end of a window, or of the time without: decide on the lookups to come."""
    if cache.asked:
        cache.lookups += CACHE_WINDOW
        cache.hits += cache.window_hits
        cache.asked = cache.window_hits >= CACHE_WINDOW - CACHE_MISSES_MAX
    else:
        cache.asked = cache.size > 0
    cache.window_hits = 0
    cache.left = CACHE_WINDOW
    if not cache.asked:
        cache.left = CACHE_BYPASS
        cache.bypassed += CACHE_BYPASS if cache.size else 0


cdef inline cache_entry *cache_set(const fast_cache *cache, uint64_t hash) noexcept nogil:
    return &cache.entries[(<uint32_t>hash & cache.set_mask) * 2]


cdef inline uint32_t fast_cache_find(fast_cache *cache, uint64_t hash) noexcept nogil:
    """The half flow that was last seen with this hash, or HALF_NONE; it moves to the front of its set."""
    cdef cache_entry *first = cache_set(cache, hash)
    cdef cache_entry found
    cdef uint32_t tag = <uint32_t>(hash >> 32)
    if first.tag != tag:
        found = first[cache.second]
        if found.tag != tag:
            return HALF_NONE
        first[cache.second] = first[0]
        first[0] = found
    cache.window_hits += 1
    return first.half


cdef inline void fast_cache_put(fast_cache *cache, uint64_t hash, uint32_t half) noexcept nogil:
    """Put *half* in front of its set, in place of the set's second."""
    cdef cache_entry *first = cache_set(cache, hash)
    first[cache.second] = first[0]
    first.tag = <uint32_t>(hash >> 32)
    first.half = half


cdef inline void fast_cache_forget(fast_cache *cache, uint64_t hash, uint32_t half) noexcept nogil:
    """Whoever has this hash from now on is not *half*: finding it would count as a hit."""
    cdef cache_entry *first
    if cache.size == 0:
        return
    first = cache_set(cache, hash)
    if first.half == half:
        first.tag = 0
    if first[cache.second].half == half:
        first[cache.second].tag = 0
