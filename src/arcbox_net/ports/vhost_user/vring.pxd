"""A split virtqueue as the device sees it (virtio 1.2, 2.7): the only file that reads a guest's indexes.

Whatever the guest has written is loaded once into a local, checked there, and used from there: it may change at any
time. What the guest gets to see of us is written but never read back. Entries are used in the order in which they
were taken, so the used index is the whole state of a ring: who comes after us takes up there.

A fault is something that no driver does by mistake. Whoever finds one gives the ring up.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport (
    abx_fence, abx_load_acquire_u16, abx_load_relaxed_u16, abx_snapshot, abx_store_relaxed_u16, abx_store_release_u16,
)
from arcbox_net.abi.prefetch cimport abx_prefetch
from arcbox_net.abi.socket cimport iovec
from arcbox_net.memory.guest_memory cimport guest_memory, guest_range
from arcbox_net.ports.vhost_user.calls cimport call_guest

cdef enum:
    RING_SIZE_MAX = 32_768
    CHAIN_MAX = 1024  # buffers of a chain, those of its table too: more than any driver uses, and QEMU's limit too
    DESCRIPTOR_BYTES = 16
    DESCRIPTOR_NEXT = 1
    DESCRIPTOR_WRITE = 2  # for us to write
    DESCRIPTOR_INDIRECT = 4
    AVAILABLE_NO_INTERRUPT = 1
    USED_NO_NOTIFY = 1

cpdef enum RingFault:
    FAULT_NONE
    FAULT_AVAILABLE  # more entries than the ring has (V18)
    FAULT_HEAD  # an entry that names no descriptor (V3)
    FAULT_NEXT  # a descriptor whose next is none (V2)
    FAULT_LOOP  # more descriptors than a chain can have (V1, V4)
    FAULT_ADDRESS  # not in one region of the guest's memory (V5 to V7, V13)
    FAULT_EMPTY  # a descriptor of no bytes (V8)
    FAULT_BYTES  # 4 GiB or more in a chain (V9)
    FAULT_NESTED  # an indirect table in an indirect table (V10)
    FAULT_TABLE  # an indirect table of no size that one can have, or that was not negotiated (V11)
    FAULT_INDIRECT_NEXT  # V12
    FAULT_ORDER  # a descriptor for us to read behind one to write (V14)
    FAULT_DIRECTION  # a frame of the guest's in a descriptor for us to write, or the other way round (V15)

cdef struct vring_descriptor:
    uint64_t address
    uint32_t size
    uint16_t flags
    uint16_t next

cdef struct vring_used:
    uint32_t id
    uint32_t size

cdef struct vring_chain:
    uint32_t readable  # descriptors; their parts come first
    uint32_t writable
    uint32_t readable_bytes
    uint32_t writable_bytes
    uint16_t head

cdef struct vring_layout:  # addresses of the front end
    uint64_t descriptors
    uint64_t available
    uint64_t used

cdef struct vring:
    guest_memory *memory
    const vring_descriptor *descriptors
    uint16_t *available  # flags, index, heads, and the used index at which the guest wants to be called
    uint16_t *used  # flags, index, entries, and the available index at which we want to be kicked
    uint32_t size
    uint32_t mask
    uint16_t next  # of the available ring: the first that was not taken
    uint16_t seen  # the available index as last read
    uint16_t finished  # entries written to the used ring
    uint16_t called  # those of them that the guest was told of, if it wanted to know
    bint started
    bint enabled
    bint event_idx
    bint indirect
    bint asleep  # the guest is to kick
    bint call_due  # whatever the indexes say
    int kick_fd
    int call_fd
    vring_layout layout


cdef int vring_start(
    vring *v, guest_memory *memory, uint32_t size, const vring_layout *layout, bint event_idx
) noexcept nogil
cdef int vring_find(vring *v) noexcept nogil
cdef void vring_begin(vring *v, uint16_t base) noexcept nogil


cdef inline uint16_t vring_used_index(const vring *v) noexcept nogil:
    """Where the used ring ends by the guest's memory: only for who comes after a crash."""
    return abx_load_acquire_u16(&v.used[1])


cdef inline RingFault vring_available(vring *v, uint32_t *count) noexcept nogil:
    """How many chains the guest has made available and nobody has taken."""
    v.seen = abx_load_acquire_u16(&v.available[1])
    count[0] = <uint16_t>(v.seen - v.next)
    return FAULT_AVAILABLE if count[0] > v.size else FAULT_NONE


cdef inline uint16_t vring_head(const vring *v, uint32_t i) noexcept nogil:
    """The head of the chain *i* places behind the next. It may be any number, and its descriptor is asked for."""
    cdef uint16_t head = abx_load_relaxed_u16(&v.available[2 + ((v.next + i) & v.mask)])
    abx_prefetch(&v.descriptors[head & v.mask])
    return head


cdef inline RingFault vring_walk(
    vring *v, uint16_t head, iovec *parts, uint32_t parts_max, vring_chain *chain
) noexcept nogil:
    """Check the chain at *head* to its end. Its first *parts_max* descriptors are in *parts*, at our addresses."""
    cdef const vring_descriptor *table = v.descriptors
    cdef vring_descriptor descriptor
    cdef uint32_t entries = v.size
    cdef uint32_t left = min(v.size, <uint32_t>CHAIN_MAX)
    cdef uint32_t index = head
    cdef uint32_t stored = 0
    cdef bint nested = False
    cdef uint8_t *base
    chain.head = head
    chain.readable = chain.writable = 0
    chain.readable_bytes = chain.writable_bytes = 0
    if head >= v.size:
        return FAULT_HEAD
    while left > 0:
        left -= 1
        if index >= entries:
            return FAULT_NEXT
        abx_snapshot(&descriptor, &table[index], DESCRIPTOR_BYTES)
        base = guest_range(v.memory, descriptor.address, descriptor.size)
        if base == NULL:
            return FAULT_ADDRESS
        if descriptor.flags & DESCRIPTOR_INDIRECT:
            if nested:
                return FAULT_NESTED
            if descriptor.flags & DESCRIPTOR_NEXT:
                return FAULT_INDIRECT_NEXT
            if not v.indirect or descriptor.size == 0 or descriptor.size % DESCRIPTOR_BYTES:
                return FAULT_TABLE
            entries = descriptor.size // DESCRIPTOR_BYTES
            if entries > CHAIN_MAX:
                return FAULT_TABLE
            table = <const vring_descriptor *>base
            left = min(entries, CHAIN_MAX - chain.readable - chain.writable)  # what came ahead of it counts
            index = 0
            nested = True
            continue
        if descriptor.size == 0:
            return FAULT_EMPTY
        if descriptor.flags & DESCRIPTOR_WRITE:
            chain.writable += 1
            chain.writable_bytes += descriptor.size
            if chain.writable_bytes < descriptor.size:
                return FAULT_BYTES
        elif chain.writable:
            return FAULT_ORDER
        else:
            chain.readable += 1
            chain.readable_bytes += descriptor.size
            if chain.readable_bytes < descriptor.size:
                return FAULT_BYTES
        if stored < parts_max:
            parts[stored].iov_base = base
            parts[stored].iov_len = descriptor.size
            stored += 1
        if not descriptor.flags & DESCRIPTOR_NEXT:
            return FAULT_NONE
        index = descriptor.next
    return FAULT_LOOP


cdef inline void vring_finish(vring *v, uint16_t head, uint32_t size) noexcept nogil:
    """Give the chain at *head* back, with *size* bytes written to it. The guest sees it after `vring_publish`."""
    cdef vring_used *entry = &(<vring_used *>&v.used[2])[v.finished & v.mask]
    entry.id = head
    entry.size = size
    v.finished += 1


cdef inline void vring_publish(vring *v) noexcept nogil:
    """Show the guest what was finished, and call it if it wants that."""
    cdef uint16_t before = v.called
    cdef uint16_t event
    if v.finished == before:
        return
    abx_store_release_u16(&v.used[1], v.finished)
    # The guest writes when it wants to be called, and then looks at the index; we do it the other way round.
    abx_fence()
    v.called = v.finished
    if v.event_idx:
        event = abx_load_relaxed_u16(&v.available[2 + v.size])
        if <uint16_t>(v.finished - event - 1) >= <uint16_t>(v.finished - before) and not v.call_due:
            return
    elif abx_load_relaxed_u16(&v.available[0]) & AVAILABLE_NO_INTERRUPT:
        return
    v.call_due = v.call_fd >= 0 and not call_guest(v.call_fd)


cdef inline void vring_call_again(vring *v) noexcept nogil:
    """Make the call that the kernel had no room for, or that was missed while the descriptor was another."""
    if not v.call_due or v.call_fd < 0:
        return
    if v.event_idx or not abx_load_relaxed_u16(&v.available[0]) & AVAILABLE_NO_INTERRUPT:
        v.call_due = not call_guest(v.call_fd)


cdef inline void vring_stay_awake(vring *v) noexcept nogil:
    """Tell the guest that it need not kick. With EVENT_IDX a stale index says that, for 65,535 entries."""
    if v.asleep:
        v.asleep = False
        if not v.event_idx:
            abx_store_relaxed_u16(&v.used[0], USED_NO_NOTIFY)


cdef inline bint vring_sleep(vring *v) noexcept nogil:
    """Have the guest kick when there is something to take. False if there is already."""
    if not v.asleep:
        v.asleep = True
        if v.event_idx:
            abx_store_relaxed_u16(&v.used[2 + 4 * v.size], v.next)
        else:
            abx_store_relaxed_u16(&v.used[0], 0)
        # The guest makes entries available, and then looks whether to kick; we do it the other way round.
        abx_fence()
    if abx_load_acquire_u16(&v.available[1]) == v.next:
        return True
    vring_stay_awake(v)
    return False
