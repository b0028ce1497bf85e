"""A guest's UDP endpoints: what a relay thread keeps of each, the table they are found in, and its limits. No I/O.

An endpoint is a guest's address and UDP port number. It has one host socket, whatever it sends to, so every
peer sees the same source (RFC 4787 REQ-1), and only an address it has sent to can answer (REQ-8,
address-dependent filtering). Of those addresses the latest UDP_PEERS_MAX are kept, as seeded 32-bit hashes.

An endpoint that ended is used again in a later turn: an event of this turn may still point at it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.abi.socket cimport AF_INET, in6_addr, in_addr, sockaddr_in, sockaddr_in6
from arcbox_net.relay.flow cimport (
    ADDRESS_BYTES, item_init, link_append, link_remove, relay_guest, relay_item, relay_link, relay_rule,
)
from arcbox_net.relay.guests cimport guest_drop, guest_hold, guest_table

cdef enum:
    UDP_PEERS_MAX = 64
    ENDPOINT_SLAB_ENTRIES = 64

cdef struct endpoint_key:
    uint8_t guest[ADDRESS_BYTES]  # an IPv4 address as ::ffff:a.b.c.d
    uint16_t l4_port  # or the identifier of an echo
    uint16_t zero

cdef struct relay_endpoint:
    relay_item item
    relay_rule *rule  # the door's
    relay_link rule_link
    relay_guest *guest
    relay_endpoint *next  # in its bucket, or of the free ones
    uint64_t retired_turn
    uint64_t opened_ms
    uint64_t bytes_out
    uint64_t bytes_in
    uint32_t hash
    int fd
    endpoint_key key
    uint8_t version  # IPV4_DOOR or IPV6_DOOR
    uint8_t dont_fragment  # as the socket is set now
    uint8_t segments_refused  # the way out takes no UDP_SEGMENT
    uint8_t peer_count
    uint8_t peer_oldest
    sockaddr_in6 peer  # the last one sent to; a sockaddr_in as its family says
    uint32_t peers[UDP_PEERS_MAX]

cdef struct endpoint_slab:
    endpoint_slab *next
    relay_endpoint entries[ENDPOINT_SLAB_ENTRIES]

cdef struct endpoint_table:
    relay_endpoint **buckets
    uint32_t bucket_mask
    uint32_t live
    uint32_t live_max
    uint32_t per_guest_max
    uint64_t seed
    guest_table *guests
    relay_endpoint *free_first
    relay_endpoint *free_last
    endpoint_slab *slabs


cdef inline bint endpoints_prepare(
    endpoint_table *t, guest_table *guests, uint32_t live_max, uint32_t per_guest_max, uint64_t seed
) noexcept nogil:
    """False when memory is short."""
    cdef uint32_t buckets = 1
    memset(t, 0, sizeof(endpoint_table))
    while buckets < live_max and buckets < <uint32_t>1 << 20:
        buckets *= 2
    t.bucket_mask = buckets - 1
    t.live_max = live_max
    t.per_guest_max = per_guest_max
    t.seed = seed
    t.guests = guests
    t.buckets = <relay_endpoint **>calloc(buckets, sizeof(relay_endpoint *))
    return t.buckets != NULL


cdef inline void endpoints_release(endpoint_table *t) noexcept nogil:
    """Give the memory back; the sockets are closed already."""
    cdef endpoint_slab *slab
    while t.slabs != NULL:
        slab = t.slabs
        t.slabs = slab.next
        free(slab)
    free(t.buckets)
    t.buckets = NULL


cdef inline uint32_t endpoint_hash(const endpoint_table *t, const endpoint_key *key) noexcept nogil:
    """Seeded: guests choose what goes in."""
    cdef uint64_t words[3]
    cdef uint64_t mixed = t.seed
    cdef int i
    words[2] = 0
    memcpy(words, key, sizeof(endpoint_key))
    for i in range(3):
        mixed = (mixed ^ words[i]) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 32
        mixed += t.seed
    return <uint32_t>(mixed ^ (mixed >> 29))


cdef inline relay_endpoint *endpoint_find(
    const endpoint_table *t, const endpoint_key *key, uint32_t hashed
) noexcept nogil:
    cdef relay_endpoint *e = t.buckets[hashed & t.bucket_mask]
    while e != NULL and (e.hash != hashed or memcmp(&e.key, key, sizeof(endpoint_key)) != 0):
        e = e.next
    return e


cdef inline relay_endpoint *endpoint_acquire(
    endpoint_table *t, relay_rule *rule, relay_guest *guest, uint8_t kind, const endpoint_key *key,
    uint32_t hashed, uint64_t turn,
) noexcept nogil:
    """A zeroed endpoint of *rule*, in the table; NULL when memory is short."""
    cdef relay_endpoint *e = t.free_first
    cdef endpoint_slab *slab
    cdef int i
    if e == NULL or e.retired_turn == turn:
        slab = <endpoint_slab *>calloc(1, sizeof(endpoint_slab))
        if slab == NULL:
            return NULL
        slab.next = t.slabs
        t.slabs = slab
        for i in range(ENDPOINT_SLAB_ENTRIES):  # ahead of those that wait for the next turn
            slab.entries[i].retired_turn = <uint64_t>-1
            slab.entries[i].next = t.free_first
            t.free_first = &slab.entries[i]
        if t.free_last == NULL:
            t.free_last = &slab.entries[0]
        e = t.free_first
    t.free_first = e.next
    if t.free_first == NULL:
        t.free_last = NULL
    memset(e, 0, sizeof(relay_endpoint))
    item_init(&e.item, kind)
    e.rule = rule
    e.guest = guest
    guest_hold(t.guests, guest)
    e.rule_link.item = &e.item
    link_append(&rule.flows, &e.rule_link)
    e.key = key[0]
    e.hash = hashed
    e.next = t.buckets[hashed & t.bucket_mask]
    t.buckets[hashed & t.bucket_mask] = e
    t.live += 1
    return e


cdef inline void endpoint_release(endpoint_table *t, relay_endpoint *e, uint64_t turn) noexcept nogil:
    """Out of the table; whoever finds it in an event of this turn sees that it is retired."""
    cdef relay_endpoint **at = &t.buckets[e.hash & t.bucket_mask]
    while at[0] != e:
        at = &at[0].next
    at[0] = e.next
    link_remove(&e.rule_link)
    link_remove(&e.item.timer)
    guest_drop(t.guests, e.guest)
    e.item.retired = 1
    e.retired_turn = turn
    e.next = NULL
    if t.free_last == NULL:
        t.free_first = e
    else:
        t.free_last.next = e
    t.free_last = e
    t.live -= 1


cdef inline uint32_t peer_hash(const endpoint_table *t, const sockaddr_in6 *peer) noexcept nogil:
    """Of the address alone, never 0."""
    cdef uint64_t words[2]
    cdef uint64_t mixed = t.seed
    words[1] = 0
    if peer.sin6_family == AF_INET:
        words[0] = (<const sockaddr_in *>peer).sin_addr.s_addr
    else:
        memcpy(words, &peer.sin6_addr, 16)
    mixed = (mixed ^ words[0]) * <uint64_t>0xD6E8FEB86659FD93
    mixed ^= mixed >> 32
    mixed = (mixed ^ words[1]) * <uint64_t>0x9E3779B97F4A7C15
    mixed ^= mixed >> 32
    return <uint32_t>mixed | 1


cdef inline bint same_host(const sockaddr_in6 *a, const sockaddr_in6 *b) noexcept nogil:
    if a.sin6_family != b.sin6_family:
        return False
    if a.sin6_family == AF_INET:
        return (<const sockaddr_in *>a).sin_addr.s_addr == (<const sockaddr_in *>b).sin_addr.s_addr
    return memcmp(&a.sin6_addr, &b.sin6_addr, sizeof(in6_addr)) == 0


cdef inline bint peer_known(const endpoint_table *t, const relay_endpoint *e, const sockaddr_in6 *peer) noexcept nogil:
    """Whether the endpoint has sent to this address."""
    cdef uint32_t wanted
    cdef int i
    if same_host(&e.peer, peer):
        return True
    wanted = peer_hash(t, peer)
    for i in range(<int>e.peer_count):
        if e.peers[i] == wanted:
            return True
    return False


cdef inline void peer_learn(const endpoint_table *t, relay_endpoint *e, const sockaddr_in6 *peer) noexcept nogil:
    """The endpoint sends to *peer*; past UDP_PEERS_MAX the one learnt first is forgotten."""
    cdef bint known = peer_known(t, e, peer)
    e.peer = peer[0]
    if known:
        return
    if e.peer_count < UDP_PEERS_MAX:
        e.peers[e.peer_count] = peer_hash(t, peer)
        e.peer_count += 1
        return
    e.peers[e.peer_oldest] = peer_hash(t, peer)
    e.peer_oldest = <uint8_t>((e.peer_oldest + 1) % UDP_PEERS_MAX)
