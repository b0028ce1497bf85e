"""Which flow a packet belongs to: finding, opening, closing and expiring flows. Rewriting is nat.pyx's.

Theory of operation
    Flows live in one array of half flows (flow.pxd) and never move: their numbers are good as long as they live. An
    index leads from a key's hash to a half flow, a small cache in front of it (fast_cache.pxd) may know already.
    Every flow is on the timer wheel (timer_wheel.pxd) until it is closed. No live flow is evicted: a full table refuses
    new ones. One thread at a time works on a table.

    A burst hides its cache misses in three rounds over its packets, which one packet alone takes in one go
    (`conntrack_find`):

        hash = conntrack_hash(c, k0, k1); conntrack_prefetch(c, hash)
        candidate = conntrack_candidate(c, hash)       # of which the half flow's line is on its way, to be written
        half = conntrack_verify(c, candidate, hash, k0, k1)

    Which packets keep a flow alive: UDP and ICMP those that a guest sends (RFC 4787 REQ-6), unless `inbound_refresh`;
    TCP those of both ways that tcp_state.pyx takes for genuine.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from arcbox_net.abi.prefetch cimport abx_prefetch_to_write
from arcbox_net.dataplane.fast_cache cimport fast_cache, fast_cache_find, fast_cache_put, fast_cache_turn
from arcbox_net.dataplane.flow cimport HALF_NONE, flow_cold, half_flow
from arcbox_net.dataplane.slot_index cimport SLOT_NONE, hash_mix, slot_first, slot_index, slot_prefetch
from arcbox_net.dataplane.timer_wheel cimport timer_wheel

cdef enum:
    FLOWS_LIMIT = 1 << 23
    PORT_TIMEOUTS_MAX = 16

cdef struct port_timeout:
    uint16_t port_be
    uint32_t timeout_s

cdef struct flow_timeouts:
    uint32_t tcp_opening_s
    uint32_t tcp_established_s
    uint32_t tcp_closing_s
    uint32_t tcp_reset_s
    uint32_t udp_s
    uint32_t icmp_s
    bint inbound_refresh
    uint32_t port_count
    port_timeout ports[PORT_TIMEOUTS_MAX]  # UDP, by the port that the guest sends to

ctypedef void (*flow_gone)(void *owner, uint32_t flow) noexcept nogil

cdef struct conntrack:
    half_flow *halves  # 2 * flows_max
    flow_cold *cold  # flows_max
    uint32_t flows_max
    uint32_t flows
    uint32_t begun  # flows from this number on were never opened
    uint32_t free  # the first of the others that are free
    slot_index index
    fast_cache cache
    timer_wheel wheel
    uint64_t seed[2]
    flow_timeouts timeouts  # a shorter one counts from when a flow's timer next fires
    flow_gone gone  # told of a flow that ends, while its halves still are as they were; NULL: nobody
    void *owner  # what *gone* is given


cdef bint conntrack_init(
    conntrack *c, uint32_t flows_max, uint32_t cache_entries, const uint64_t *seed, const flow_timeouts *timeouts
) noexcept nogil
cdef void conntrack_free(conntrack *c) noexcept nogil
cdef uint32_t conntrack_open(
    conntrack *c, const half_flow *original, const half_flow *reply, uint32_t mapping, uint32_t now_s
) noexcept nogil
cdef void conntrack_close(conntrack *c, uint32_t flow) noexcept nogil
cdef uint32_t conntrack_expire(conntrack *c, uint32_t now_s, uint32_t budget) noexcept nogil
cdef bint conntrack_is_behind(const conntrack *c, uint32_t now_s) noexcept nogil
cdef uint32_t conntrack_expires_s(const conntrack *c, uint32_t flow) noexcept nogil
cdef void conntrack_rearm(conntrack *c, uint32_t flow) noexcept nogil
cdef uint32_t conntrack_next(const conntrack *c, uint32_t *cursor, uint32_t budget) noexcept nogil
cdef size_t conntrack_bytes(const conntrack *c) noexcept nogil
cdef uint32_t conntrack_search(conntrack *c, uint64_t hash, uint64_t key_addresses, uint64_t key_rest) noexcept nogil


cdef inline uint64_t conntrack_hash(const conntrack *c, uint64_t key_addresses, uint64_t key_rest) noexcept nogil:
    return hash_mix(key_addresses, key_rest, c.seed)


cdef inline void conntrack_prefetch(const conntrack *c, uint64_t hash) noexcept nogil:
    """Have the index's line come near."""
    slot_prefetch(&c.index, hash)


cdef inline uint32_t conntrack_candidate(conntrack *c, uint64_t hash) noexcept nogil:
    """The half flow that most likely has this hash, on its way to be written; HALF_NONE: none has it."""
    cdef uint32_t half
    if c.cache.left == 0:
        fast_cache_turn(&c.cache)
    c.cache.left -= 1
    if c.cache.asked:
        half = fast_cache_find(&c.cache, hash)
        if half != HALF_NONE:
            abx_prefetch_to_write(&c.halves[half])
            return half
    half = slot_first(&c.index, hash)
    if half != SLOT_NONE:
        abx_prefetch_to_write(&c.halves[half])
        if c.cache.asked:
            fast_cache_put(&c.cache, hash, half)
    return half


cdef inline uint32_t conntrack_verify(
    conntrack *c, uint32_t candidate, uint64_t hash, uint64_t key_addresses, uint64_t key_rest
) noexcept nogil:
    """The half flow with this key, or HALF_NONE."""
    if candidate == HALF_NONE:
        return HALF_NONE
    if c.halves[candidate].key_addresses == key_addresses and c.halves[candidate].key_rest == key_rest:
        return candidate
    return conntrack_search(c, hash, key_addresses, key_rest)


cdef inline uint32_t conntrack_find(conntrack *c, uint64_t key_addresses, uint64_t key_rest) noexcept nogil:
    """The half flow with this key, or HALF_NONE."""
    cdef uint64_t hash = conntrack_hash(c, key_addresses, key_rest)
    return conntrack_verify(c, conntrack_candidate(c, hash), hash, key_addresses, key_rest)
