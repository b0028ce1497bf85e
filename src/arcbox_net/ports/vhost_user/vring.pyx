"""Where a ring lies in the guest's memory, and how it begins. What happens on it is in vring.pxd."""

from libc.errno cimport EFAULT, EINVAL
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_store_relaxed_u16
from arcbox_net.memory.guest_memory cimport guest_memory, user_range

cdef struct span:
    uint64_t size
    uint64_t alignment
    uint8_t *base


cdef int vring_start(
    vring *v, guest_memory *memory, uint32_t size, const vring_layout *layout, bint event_idx
) noexcept nogil:
    """Find the ring's three parts. 0, or -EINVAL for what no ring can be, -EFAULT for what is not in memory."""
    if size == 0 or size > RING_SIZE_MAX or size & (size - 1):
        return -EINVAL
    v.memory = memory
    v.size = size
    v.mask = size - 1
    v.layout = layout[0]
    v.event_idx = event_idx
    return vring_find(v)


cdef int vring_find(vring *v) noexcept nogil:
    """Look the ring's parts up in the memory, which may be another than before."""
    cdef span parts[3]
    cdef uint64_t event = 2 if v.event_idx else 0
    cdef int i, j
    parts[0].size = <uint64_t>DESCRIPTOR_BYTES * v.size
    parts[1].size = 4 + 2 * <uint64_t>v.size + event
    parts[2].size = 4 + 8 * <uint64_t>v.size + event
    parts[0].base = user_range(v.memory, v.layout.descriptors, parts[0].size)
    parts[1].base = user_range(v.memory, v.layout.available, parts[1].size)
    parts[2].base = user_range(v.memory, v.layout.used, parts[2].size)
    parts[0].alignment, parts[1].alignment, parts[2].alignment = DESCRIPTOR_BYTES, 2, 4
    for i in range(3):
        if parts[i].base == NULL:
            return -EFAULT
        # Of our address, where some processors fail otherwise: the front end's region may begin anywhere.
        if <uint64_t>parts[i].base % parts[i].alignment:
            return -EINVAL
        for j in range(i):
            if parts[i].base < parts[j].base + parts[j].size and parts[j].base < parts[i].base + parts[i].size:
                return -EINVAL
    v.descriptors = <const vring_descriptor *>parts[0].base
    v.available = <uint16_t *>parts[1].base
    v.used = <uint16_t *>parts[2].base
    return 0


cdef void vring_begin(vring *v, uint16_t base) noexcept nogil:
    """Take the entry *base* of the available ring next. The guest may have kicked before: nobody waits for that."""
    v.next = v.seen = v.finished = v.called = base
    v.asleep = False
    v.call_due = True
    abx_store_relaxed_u16(&v.used[0], 0 if v.event_idx else USED_NO_NOTIFY)
    v.started = True
