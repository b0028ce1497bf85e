"""Owns the memory of fragments that wait for others: who may have how much of it, and who makes room for whom.

Whoever is at a limit loses the datagram that waits longest, and nobody else does: a guest that loses some of its
fragments on their way can go on sending. A datagram is its owner's: the guest's that sends it, or that of the
address outside that it comes from. Each direction of each IP version has its share of the memory, so nothing from
outside takes a guest's.

All memory is one allocation each at the start, and is touched only as far as it is used.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memmove, memset

from arcbox_net.dataplane.flow cimport KEY_DIRECTION_SHIFT
from arcbox_net.dataplane.fragment_store cimport (
    BLOCK_BYTES, BLOCKS_MAX, BLOCKS_OWNER, BLOCKS_SHARE, BUCKETS, DATAGRAMS_MAX, DATAGRAMS_OWNER,
    DATAGRAMS_SHARE, FRAGMENT_NONE, LINK_OWNER, LINK_SHARE, PARTS_MAX, SHARES, datagram, datagram_link, datagram_list,
    datagram_part, fragment_owner, fragment_share, fragment_store,
)
from arcbox_net.wire.siphash cimport siphash13


cdef bint fragment_store_init(fragment_store *s, const uint64_t *seed) noexcept nogil:
    """False when there is no memory; `fragment_store_free` is due all the same."""
    cdef uint16_t i
    memset(s, 0, sizeof(fragment_store))
    memset(s.buckets, 0xFF, sizeof(s.buckets))
    memset(s.owner_buckets, 0xFF, sizeof(s.owner_buckets))
    for i in range(SHARES):
        s.shares[i].datagrams.head = s.shares[i].datagrams.tail = FRAGMENT_NONE
    for i in range(2):
        s.links[i] = <datagram_link *>calloc(DATAGRAMS_MAX, sizeof(datagram_link))
        s.seed[i] = seed[i]
    s.datagrams = <datagram *>calloc(DATAGRAMS_MAX, sizeof(datagram))
    s.owners = <fragment_owner *>calloc(DATAGRAMS_MAX, sizeof(fragment_owner))
    s.blocks = <uint8_t *>calloc(BLOCKS_MAX, BLOCK_BYTES)
    s.block_next = <uint16_t *>calloc(BLOCKS_MAX, sizeof(uint16_t))
    if (
        s.links[0] == NULL or s.links[1] == NULL or s.datagrams == NULL or s.owners == NULL
        or s.blocks == NULL or s.block_next == NULL
    ):
        return False
    for i in range(DATAGRAMS_MAX):
        s.links[LINK_SHARE][i].next = s.owners[i].next = i + 1 if i + 1 < DATAGRAMS_MAX else FRAGMENT_NONE
    for i in range(BLOCKS_MAX):
        s.block_next[i] = i + 1 if i + 1 < BLOCKS_MAX else FRAGMENT_NONE
    return True


cdef void fragment_store_free(fragment_store *s) noexcept nogil:
    free(s.links[0])
    free(s.links[1])
    free(s.datagrams)
    free(s.owners)
    free(s.blocks)
    free(s.block_next)
    memset(s, 0, sizeof(fragment_store))


cdef uint16_t datagram_find(fragment_store *s, uint64_t key_addresses, uint64_t key_rest) noexcept nogil:
    """The datagram that a fragment belongs to, or FRAGMENT_NONE."""
    cdef uint16_t id = s.buckets[_bucket(s, key_addresses, key_rest)]
    while id != FRAGMENT_NONE:
        if s.datagrams[id].key_addresses == key_addresses and s.datagrams[id].key_rest == key_rest:
            return id
        id = s.datagrams[id].next
    return FRAGMENT_NONE


cdef uint16_t datagram_open(
    fragment_store *s, uint64_t key_addresses, uint64_t key_rest, uint64_t owner_key, uint64_t now_ns
) noexcept nogil:
    """A new datagram without fragments, whose key is not there yet; there is always one to be had."""
    cdef fragment_share *share = _share_of(s, key_rest)
    cdef uint16_t owner = _owner_find(s, owner_key)
    cdef uint16_t *bucket = &s.buckets[_bucket(s, key_addresses, key_rest)]
    cdef datagram *d
    cdef uint16_t id
    if owner != FRAGMENT_NONE and s.owners[owner].count == DATAGRAMS_OWNER:
        _evict(s, s.owners[owner].datagrams.head)
    if share.count == DATAGRAMS_SHARE:
        _evict(s, share.datagrams.head)
    owner = _owner_open(s, owner_key)
    id = s.free_datagram
    s.free_datagram = s.links[LINK_SHARE][id].next
    d = &s.datagrams[id]
    memset(d, 0, sizeof(datagram) - sizeof(d.part))
    d.key_addresses = key_addresses
    d.key_rest = key_rest
    d.started_ns = now_ns
    d.owner = owner
    d.next = bucket[0]
    bucket[0] = id
    _append(&share.datagrams, s.links[LINK_SHARE], id)
    _append(&s.owners[owner].datagrams, s.links[LINK_OWNER], id)
    share.count += 1
    s.owners[owner].count += 1
    return id


cdef void datagram_close(fragment_store *s, uint16_t id) noexcept nogil:
    """Forget the datagram and its fragments."""
    cdef datagram *d = &s.datagrams[id]
    cdef fragment_owner *owner = &s.owners[d.owner]
    cdef fragment_share *share = _share_of(s, d.key_rest)
    cdef uint16_t *at = &s.buckets[_bucket(s, d.key_addresses, d.key_rest)]
    _free_parts(s, d)
    while at[0] != id:
        at = &s.datagrams[at[0]].next
    at[0] = d.next
    _remove(&share.datagrams, s.links[LINK_SHARE], id)
    _remove(&owner.datagrams, s.links[LINK_OWNER], id)
    share.count -= 1
    owner.count -= 1
    if owner.count == 0:
        _owner_close(s, d.owner)
    s.links[LINK_SHARE][id].next = s.free_datagram
    s.free_datagram = id


cdef void datagram_refuse(fragment_store *s, uint16_t id) noexcept nogil:
    """Drop its fragments, and remember that those to come are to be dropped too (RFC 5722 4)."""
    _free_parts(s, &s.datagrams[id])
    s.datagrams[id].refused = 1


cdef bint datagram_keep(
    fragment_store *s, uint16_t id, uint16_t index, uint16_t offset, const uint8_t *payload, uint16_t size
) noexcept nogil:
    """Copy a fragment, the *index*th by its offset; False when the datagram has PARTS_MAX already."""
    cdef datagram *d = &s.datagrams[id]
    cdef uint16_t needed = <uint16_t>((size + BLOCK_BYTES - 1) // BLOCK_BYTES)
    cdef datagram_part *part = &d.part[index]
    if d.parts == PARTS_MAX:
        return False
    _make_room(s, id, needed)
    memmove(part + 1, part, (d.parts - index) * sizeof(datagram_part))
    part.offset = offset
    part.size = size
    part.block = _write(s, payload, size)
    d.parts += 1
    d.held += size
    d.blocks += needed
    s.owners[d.owner].blocks += needed
    _share_of(s, d.key_rest).blocks += needed
    return True


cdef bint datagram_part_is(
    const fragment_store *s, const datagram_part *part, const uint8_t *payload, uint32_t size
) noexcept nogil:
    """Whether the part has these bytes."""
    cdef uint32_t at = 0, piece
    cdef uint16_t block = part.block
    if part.size != size:
        return False
    while at < size:
        piece = min(<uint32_t>BLOCK_BYTES, size - at)
        if memcmp(s.blocks + <uint32_t>block * BLOCK_BYTES, payload + at, piece):
            return False
        block = s.block_next[block]
        at += piece
    return True


cdef void datagram_read(const fragment_store *s, const datagram_part *part, uint8_t *out) noexcept nogil:
    """Copy the part to *out*."""
    cdef uint32_t at = 0, piece
    cdef uint16_t block = part.block
    while at < part.size:
        piece = min(<uint32_t>BLOCK_BYTES, part.size - at)
        memcpy(out + at, s.blocks + <uint32_t>block * BLOCK_BYTES, piece)
        block = s.block_next[block]
        at += piece


cdef uint16_t _write(fragment_store *s, const uint8_t *payload, uint32_t size) noexcept nogil:
    """Copy to free blocks; the first of them."""
    cdef uint16_t first = s.free_block
    cdef uint16_t block = first
    cdef uint32_t at = 0, piece
    while True:
        piece = min(<uint32_t>BLOCK_BYTES, size - at)
        memcpy(s.blocks + <uint32_t>block * BLOCK_BYTES, payload + at, piece)
        at += piece
        if at == size:
            break
        block = s.block_next[block]
    s.free_block = s.block_next[block]
    s.block_next[block] = FRAGMENT_NONE
    return first


cdef void _free_parts(fragment_store *s, datagram *d) noexcept nogil:
    cdef uint16_t i, block
    for i in range(d.parts):
        block = d.part[i].block
        while s.block_next[block] != FRAGMENT_NONE:
            block = s.block_next[block]
        s.block_next[block] = s.free_block
        s.free_block = d.part[i].block
    s.owners[d.owner].blocks -= d.blocks
    _share_of(s, d.key_rest).blocks -= d.blocks
    d.parts = 0
    d.held = 0
    d.blocks = 0


cdef void _make_room(fragment_store *s, uint16_t id, uint16_t needed) noexcept nogil:
    """Evict others until *id* may have *needed* blocks more: no datagram alone has as many as an owner may."""
    cdef fragment_owner *owner = &s.owners[s.datagrams[id].owner]
    cdef fragment_share *share = _share_of(s, s.datagrams[id].key_rest)
    cdef int _i
    for _i in range(DATAGRAMS_OWNER):
        if owner.blocks + needed <= BLOCKS_OWNER:
            break
        _evict(s, _oldest_but(&owner.datagrams, s.links[LINK_OWNER], id))
    for _i in range(DATAGRAMS_SHARE):
        if share.blocks + needed <= BLOCKS_SHARE:
            break
        _evict(s, _oldest_but(&share.datagrams, s.links[LINK_SHARE], id))


cdef uint16_t _oldest_but(const datagram_list *l, const datagram_link *links, uint16_t id) noexcept nogil:
    return l.head if l.head != id else links[id].next


cdef void _evict(fragment_store *s, uint16_t id) noexcept nogil:
    s.evicted += 1
    datagram_close(s, id)


cdef uint16_t _owner_find(fragment_store *s, uint64_t key) noexcept nogil:
    cdef uint16_t id = s.owner_buckets[_bucket(s, key, 0)]
    while id != FRAGMENT_NONE and s.owners[id].key != key:
        id = s.owners[id].next
    return id


cdef uint16_t _owner_open(fragment_store *s, uint64_t key) noexcept nogil:
    """The owner with this key. Each has a datagram, so that there are no more of them."""
    cdef uint16_t id = _owner_find(s, key)
    cdef uint16_t *bucket = &s.owner_buckets[_bucket(s, key, 0)]
    cdef fragment_owner *owner
    if id != FRAGMENT_NONE:
        return id
    id = s.free_owner
    owner = &s.owners[id]
    s.free_owner = owner.next
    memset(owner, 0, sizeof(fragment_owner))
    owner.key = key
    owner.datagrams.head = owner.datagrams.tail = FRAGMENT_NONE
    owner.next = bucket[0]
    bucket[0] = id
    return id


cdef void _owner_close(fragment_store *s, uint16_t id) noexcept nogil:
    cdef uint16_t *at = &s.owner_buckets[_bucket(s, s.owners[id].key, 0)]
    while at[0] != id:
        at = &s.owners[at[0]].next
    at[0] = s.owners[id].next
    s.owners[id].next = s.free_owner
    s.free_owner = id


cdef void _append(datagram_list *l, datagram_link *links, uint16_t id) noexcept nogil:
    links[id].previous = l.tail
    links[id].next = FRAGMENT_NONE
    if l.tail == FRAGMENT_NONE:
        l.head = id
    else:
        links[l.tail].next = id
    l.tail = id


cdef void _remove(datagram_list *l, datagram_link *links, uint16_t id) noexcept nogil:
    if links[id].previous == FRAGMENT_NONE:
        l.head = links[id].next
    else:
        links[links[id].previous].next = links[id].next
    if links[id].next == FRAGMENT_NONE:
        l.tail = links[id].previous
    else:
        links[links[id].next].previous = links[id].previous


cdef uint32_t _bucket(const fragment_store *s, uint64_t first, uint64_t second) noexcept nogil:
    cdef uint64_t key[2]
    key[0], key[1] = first, second
    return siphash13(s.seed[0], s.seed[1], <const uint8_t *>key, sizeof(key)) % BUCKETS


cdef fragment_share *_share_of(fragment_store *s, uint64_t key_rest) noexcept nogil:
    return &s.shares[key_rest >> KEY_DIRECTION_SHIFT & (SHARES - 1)]  # KEY_IPV6_SHIFT is the next
