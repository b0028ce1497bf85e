"""A guest's memory, mapped here by region: from the addresses that a guest and its front end use to ours.

Addresses and sizes come from a guest, and may be anything. `guest_range` and `user_range` give an address of ours
only for a range that lies in one region as a whole: neighbours in the guest's addresses are not neighbours in ours.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    GUEST_REGIONS_MAX = 32

cdef struct guest_region:
    uint64_t gpa  # where the guest has it
    uint64_t size
    uint64_t user  # where the front end has it
    uint8_t *base  # where it is here

cdef struct guest_memory:
    uint32_t count
    uint32_t last  # the region that had the last address: most likely the next one is there, too
    guest_region regions[GUEST_REGIONS_MAX]


cdef int guest_memory_add(
    guest_memory *memory, uint64_t gpa, uint64_t size, uint64_t user, uint64_t offset, int fd, bint unsealed
) noexcept nogil
cdef int guest_memory_remove(guest_memory *memory, uint64_t gpa, uint64_t size, uint64_t user) noexcept nogil
cdef void guest_memory_clear(guest_memory *memory) noexcept nogil


cdef inline bint range_lies_in(uint64_t start, uint64_t size, uint64_t region, uint64_t region_size) noexcept nogil:
    """Whether *size* bytes from *start* lie within a region; nothing here can overflow."""
    return start >= region and start - region < region_size and size <= region_size - (start - region)


cdef inline uint8_t *guest_range(guest_memory *memory, uint64_t gpa, uint64_t size) noexcept nogil:
    """Where the guest's range is here, or NULL."""
    cdef guest_region *region = &memory.regions[memory.last]
    cdef uint32_t i
    # The regions past `count` have no bytes.
    if range_lies_in(gpa, size, region.gpa, region.size):
        return region.base + (gpa - region.gpa)
    for i in range(memory.count):
        region = &memory.regions[i]
        if range_lies_in(gpa, size, region.gpa, region.size):
            memory.last = i
            return region.base + (gpa - region.gpa)
    return NULL


cdef inline uint8_t *user_range(const guest_memory *memory, uint64_t user, uint64_t size) noexcept nogil:
    """Where a range that the front end names is here, or NULL."""
    cdef const guest_region *region
    cdef uint32_t i
    for i in range(memory.count):
        region = &memory.regions[i]
        if range_lies_in(user, size, region.user, region.size):
            return region.base + (user - region.user)
    return NULL


cdef class GuestMemory:
    cdef guest_memory memory
    cdef bint unsealed

    cdef int _check(self, int status, str operation, uint64_t gpa) except -1
