"""Buffers for frames, in two sizes, and the thread's own stock of them.

A thread takes and gives back through a `pool_cache` of its own, without atomics. Caches exchange chains of buffers
through the pool's depot, which is lock-free. A buffer, `*_FRAME_BYTES` of frame behind `BUFFER_FRAME_OFFSET` bytes:

    0    meta: 48 bytes that belong to whoever holds the buffer
    48   headroom: 68 bytes, to put a header ahead of the frame
    116  virtio-net header: 12 bytes, directly ahead of the frame
    128  the frame, at the start of a cache line: Ethernet to TCP headers are one line

Neither stride is a multiple of 4096: headers of a burst spread over the sets of the first-level cache.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_add_relaxed_u64, abx_store_relaxed_u32
from arcbox_net.abi.build cimport ABX_DEBUG
from arcbox_net.memory.frame cimport FRAME_POOL, FRAME_POOL_LARGE, frame
from arcbox_net.memory.shared cimport SharedMemory

cdef enum:
    BUFFER_META_BYTES = 48
    BUFFER_HEADROOM = 68
    BUFFER_FRAME_OFFSET = 128
    SMALL_FRAME_BYTES = 2048
    LARGE_FRAME_BYTES = 69632  # 68 KiB: a frame of 64 KiB, and room behind it
    SMALL_STRIDE = BUFFER_FRAME_OFFSET + SMALL_FRAME_BYTES
    LARGE_STRIDE = BUFFER_FRAME_OFFSET + LARGE_FRAME_BYTES
    ETHERNET_HEADER_BYTES = 14
    MAGAZINE_MAX = 64  # buffers that move between a cache and the depot at once
    CACHE_SLOTS = 128  # buffers of a class that a cache holds at most: two magazines
    CACHES_MAX = 64
    POOL_BUFFERS_MAX = 1 << 20  # of a class

cdef enum:  # size classes
    POOL_SMALL = 0
    POOL_LARGE = 1
    POOL_CLASSES = 2

cdef struct pool_slot:  # one per buffer, outside the memory that others can map
    uint32_t next  # in a chain: the next buffer
    uint32_t below  # of a chain's first buffer: the first of the chain below it in the depot
    uint32_t count  # of a chain's first buffer: how many are in it
    uint32_t state  # debug builds: BUFFER_*

cdef struct pool_depot:
    uint8_t gap[128]  # every thread writes here: what is ahead and behind stays out of its cache lines
    uint64_t top  # tag << 32 | first buffer of the top chain + 1; the tag counts changes (ABA)
    uint64_t count  # buffers in it

cdef struct pool_class:
    pool_slot *slots
    uint32_t count
    uint32_t magazine

cdef struct pool_stack:
    uint32_t count
    uint32_t magazine
    uint64_t exhausted
    uint32_t buffers[CACHE_SLOTS]

cdef struct pool_cache:
    packet_pool *pool
    pool_stack stacks[POOL_CLASSES]

cdef struct packet_pool:
    uint8_t *base
    uint8_t *base_large
    uint8_t *end
    pool_class classes[POOL_CLASSES]
    pool_cache *caches[CACHES_MAX]
    uint64_t exhausted[POOL_CLASSES]  # as caches counted that are closed
    uint64_t foreign_releases
    uint64_t double_releases  # found by debug builds only, as the next
    uint64_t overwritten  # buffers that somebody wrote to after their release
    pool_depot depots[POOL_CLASSES]


cdef bint pool_refill(pool_cache *cache, uint32_t size_class) noexcept nogil
cdef void pool_spill(pool_cache *cache, uint32_t size_class) noexcept nogil
cdef void pool_check_acquired(packet_pool *pool, uint32_t size_class, uint32_t index) noexcept nogil
cdef bint pool_check_released(packet_pool *pool, uint32_t size_class, uint32_t index) noexcept nogil


cdef inline uint8_t *pool_acquire(pool_cache *cache, uint32_t size_class) noexcept nogil:
    """The start of an empty buffer's frame, or NULL if none is left, which is counted."""
    cdef pool_stack *stack = &cache.stacks[size_class]
    cdef uint32_t index
    if stack.count == 0 and not pool_refill(cache, size_class):
        return NULL
    index = stack.buffers[stack.count - 1]
    abx_store_relaxed_u32(&stack.count, stack.count - 1)
    if ABX_DEBUG:
        pool_check_acquired(cache.pool, size_class, index)
    if size_class == POOL_SMALL:
        return cache.pool.base + <size_t>index * SMALL_STRIDE + BUFFER_FRAME_OFFSET
    return cache.pool.base_large + <size_t>index * LARGE_STRIDE + BUFFER_FRAME_OFFSET


cdef inline void pool_release(pool_cache *cache, const uint8_t *data) noexcept nogil:
    """Give the buffer back that *data* points into: its frame's start, or where a header was put ahead of it."""
    cdef packet_pool *pool = cache.pool
    cdef pool_stack *stack
    cdef uint32_t size_class
    cdef uint32_t index
    if data < pool.base or data >= pool.end:
        abx_add_relaxed_u64(&pool.foreign_releases, 1)
        return
    if data < pool.base_large:
        size_class = POOL_SMALL
        index = <uint32_t>(<size_t>(data - pool.base) // SMALL_STRIDE)
    else:
        size_class = POOL_LARGE
        index = <uint32_t>(<size_t>(data - pool.base_large) // LARGE_STRIDE)
    if ABX_DEBUG and not pool_check_released(pool, size_class, index):
        return
    stack = &cache.stacks[size_class]
    if stack.count == 2 * stack.magazine:
        pool_spill(cache, size_class)
    stack.buffers[stack.count] = index
    abx_store_relaxed_u32(&stack.count, stack.count + 1)


cdef inline uint32_t pool_acquire_burst(
    pool_cache *cache, uint32_t size_class, frame *frames, uint32_t count
) noexcept nogil:
    """Make up to *count* descriptors of empty buffers; how many there were."""
    cdef uint32_t i
    for i in range(count):
        frames[i].data = pool_acquire(cache, size_class)
        if frames[i].data == NULL:
            return i
        frames[i].size = 0
        frames[i].headroom = BUFFER_HEADROOM
        frames[i].l3 = ETHERNET_HEADER_BYTES
        frames[i].flags = FRAME_POOL if size_class == POOL_SMALL else FRAME_POOL | FRAME_POOL_LARGE
    return count


cdef inline void pool_release_burst(pool_cache *cache, const frame *frames, uint32_t count) noexcept nogil:
    """Give the buffers of those frames back that are a pool's."""
    cdef uint32_t i
    for i in range(count):
        if frames[i].flags & FRAME_POOL:
            pool_release(cache, frames[i].data)


cdef inline uint32_t pool_room(const packet_pool *pool, const uint8_t *data) noexcept nogil:
    """How many bytes there are from *data* to the end of its buffer; *data* points into a buffer of the pool."""
    if data < pool.base_large:
        return SMALL_STRIDE - <uint32_t>(<size_t>(data - pool.base) % SMALL_STRIDE)
    return LARGE_STRIDE - <uint32_t>(<size_t>(data - pool.base_large) % LARGE_STRIDE)


cdef class PacketPool:
    cdef packet_pool *pool
    cdef pool_cache *own  # of whoever holds the GIL
    cdef SharedMemory memory
    cdef readonly bint closed

    cdef int _lay_out(self, tuple counts) except -1
    cdef void _fill_depot(self, uint32_t size_class) noexcept
    cdef dict _misuse(self)
    cdef uint64_t _held(self, uint32_t size_class)
    cdef uint64_t _exhausted(self, uint32_t size_class)


cdef class PoolCache:
    """A thread's own cache: `cache` is for that thread, until the last reference goes."""

    cdef pool_cache *cache
    cdef PacketPool owner
