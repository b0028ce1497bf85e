"""From a key's hash to the numbers that may be its entry's: 4 bytes a slot, no keys, never more than half full.

Theory of operation
    A slot is an entry's number and one, and above it a tag: the hash's bits that the number leaves free. 0 is empty.
    Search begins at the hash's home and ends at an empty slot (linear probing). What it finds is a candidate: who has
    the entries compares the keys, and goes on with the search if they differ.

        entry = SLOT_NONE, distance = 0
        while (entry = slot_next(index, hash, &distance)) != SLOT_NONE and the key of entry is another: go on

    The tag's upper 7 bits are the lower 7 of the home, so a slot tells how far from home it is. Hence `slot_remove`
    closes the gap it makes (backward shift, no tombstones) without a look at keys; and hence an entry is at most 127
    slots from home, which at half load a seeded hash does not exceed in practice: `slot_insert` refuses beyond.

    How far from home an entry is cannot be predicted, and a branch that is predicted wrongly costs more than all the
    rest of a search. So `slot_first` looks at the first four slots at once. For those of a home near the end there is a
    copy of the first three slots behind the last one.
"""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.abi.bits cimport abx_multiply_fold_u64, abx_trailing_zeros_u64
from arcbox_net.abi.lanes cimport abx_lanes_match
from arcbox_net.abi.prefetch cimport abx_prefetch
from arcbox_net.memory.table cimport table_allocate, table_release

cdef enum:
    SLOT_NONE = 0xFFFFFFFF
    SLOT_IDS_MAX = 1 << 24
    SLOT_DISTANCE_MAX = 127  # of an entry from its home
    SLOTS_MIN = 8
    SLOT_GROUP = 4  # slots that `slot_first` looks at
    SLOT_HOME_SHIFT = 25  # of the hash: the home's lower 7 bits are bits 25 to 31 of every slot

cdef struct slot_index:
    uint32_t *slots
    uint32_t mask  # slots less one; they are a power of two
    uint32_t id_mask  # the bits of a slot that are the entry's number and one
    uint32_t used


cdef inline uint64_t hash_mix(uint64_t k0, uint64_t k1, const uint64_t *seed) noexcept nogil:
    """A hash of 16 bytes that who does not know the two words of *seed* cannot steer."""
    return abx_multiply_fold_u64(k0 ^ seed[0], k1 ^ seed[1])


cdef inline bint slot_index_init(slot_index *index, uint32_t entries_max, uint32_t ids_max) noexcept nogil:
    """Make room for *entries_max* of the entries 0 to *ids_max* - 1 (SLOT_IDS_MAX). False: there is no memory."""
    cdef uint32_t slots = SLOTS_MIN
    while slots < 2 * entries_max:
        slots *= 2
    index.mask = slots - 1
    index.id_mask = 1
    while index.id_mask < ids_max:
        index.id_mask = index.id_mask * 2 + 1
    index.used = 0
    index.slots = <uint32_t *>table_allocate(slot_index_bytes(index))
    return index.slots != NULL


cdef inline size_t slot_index_bytes(const slot_index *index) noexcept nogil:
    return (<size_t>index.mask + SLOT_GROUP) * sizeof(uint32_t)


cdef inline void slot_index_free(slot_index *index) noexcept nogil:
    table_release(index.slots, slot_index_bytes(index))
    index.slots = NULL


cdef inline uint32_t slot_home(const slot_index *index, uint64_t hash) noexcept nogil:
    return <uint32_t>(hash >> SLOT_HOME_SHIFT) & index.mask


cdef inline void slot_prefetch(const slot_index *index, uint64_t hash) noexcept nogil:
    abx_prefetch(&index.slots[slot_home(index, hash)])


cdef inline uint32_t slot_next(const slot_index *index, uint64_t hash, uint32_t *distance) noexcept nogil:
    """The next entry from *distance* (0 to begin) that may have this hash, or SLOT_NONE; *distance* is then past it."""
    cdef uint32_t home = slot_home(index, hash)
    cdef uint32_t slot
    while distance[0] <= SLOT_DISTANCE_MAX:
        slot = index.slots[(home + distance[0]) & index.mask]
        distance[0] += 1
        if slot == 0:
            break
        if slot_match(index, hash, slot):
            return (slot & index.id_mask) - 1
    return SLOT_NONE


cdef inline uint32_t slot_match(const slot_index *index, uint64_t hash, uint32_t slot) noexcept nogil:
    """1 when the slot's entry may have this hash, or 0. An empty slot has tag 0."""
    return ((slot ^ <uint32_t>hash) & ~index.id_mask) == 0


cdef inline uint32_t slot_first(const slot_index *index, uint64_t hash) noexcept nogil:
    """The first entry that may have this hash, or SLOT_NONE: `slot_next` from 0, and faster."""
    cdef const uint32_t *slots = &index.slots[slot_home(index, hash)]
    cdef uint32_t distance = 0
    cdef uint32_t entry
    cdef uint32_t matches = abx_lanes_match(slots, <uint32_t>hash, ~index.id_mask)
    if matches:
        entry = (slots[abx_trailing_zeros_u64(matches)] & index.id_mask) - 1
        if entry != SLOT_NONE:
            return entry
    elif slot_empties(slots):
        return SLOT_NONE
    return slot_next(index, hash, &distance)


cdef inline uint32_t slot_empties(const uint32_t *slots) noexcept nogil:
    """Which slots of a group are empty, a bit for each."""
    return abx_lanes_match(slots, 0, 0xFFFFFFFF)


cdef inline void slot_store(slot_index *index, uint32_t at, uint32_t slot) noexcept nogil:
    index.slots[at] = slot
    if at < SLOT_GROUP - 1:
        index.slots[index.mask + 1 + at] = slot


cdef inline bint slot_insert(slot_index *index, uint64_t hash, uint32_t entry) noexcept nogil:
    """Add *entry*, which is not in the index. False: no free slot within SLOT_DISTANCE_MAX of its home."""
    cdef uint32_t home = slot_home(index, hash)
    cdef uint32_t empties = slot_empties(&index.slots[home])
    cdef uint32_t distance = abx_trailing_zeros_u64(empties) if empties else SLOT_GROUP
    while index.slots[(home + distance) & index.mask] != 0:
        distance += 1
        if distance > SLOT_DISTANCE_MAX:
            return False
    slot_store(index, (home + distance) & index.mask, (<uint32_t>hash & ~index.id_mask) | (entry + 1))
    index.used += 1
    return True


cdef inline bint slot_remove(slot_index *index, uint64_t hash, uint32_t entry) noexcept nogil:
    """Take *entry* out, which was added with *hash*. False: it is not there."""
    cdef uint32_t slot = (<uint32_t>hash & ~index.id_mask) | (entry + 1)
    cdef uint32_t home = slot_home(index, hash)
    cdef uint32_t distance
    for distance in range(SLOT_DISTANCE_MAX + 1):
        if index.slots[(home + distance) & index.mask] == slot:
            slot_close_gap(index, (home + distance) & index.mask)
            index.used -= 1
            return True
    return False


cdef inline void slot_close_gap(slot_index *index, uint32_t gap) noexcept nogil:
    """Empty the slot at *gap* and move up those behind it that are not at home."""
    cdef uint32_t at = gap
    cdef uint32_t distance  # of the slot at *at* from its home
    while True:  # ends: half of the slots are empty
        at = (at + 1) & index.mask
        if index.slots[at] == 0:
            break
        distance = (at - (index.slots[at] >> SLOT_HOME_SHIFT)) & index.mask & SLOT_DISTANCE_MAX
        if distance >= ((at - gap) & index.mask):
            slot_store(index, gap, index.slots[at])
            gap = at
    slot_store(index, gap, 0)
