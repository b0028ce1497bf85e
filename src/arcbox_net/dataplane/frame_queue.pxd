"""Frames that go to another thread: copied into buffers of the pool, which travel by a ring and are released there."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport (
    BUFFER_HEADROOM, ETHERNET_HEADER_BYTES, POOL_LARGE, POOL_SMALL, SMALL_FRAME_BYTES, pool_acquire, pool_cache,
    pool_release,
)
from arcbox_net.memory.ring cimport ring_dequeue_burst, ring_end, ring_enqueue_burst

cdef enum:
    QUEUED_FRAME_BYTES = 32

cdef struct queued_frame:  # an item of the ring
    uint64_t offset  # of the frame in the pool's memory; its virtio-net header is ahead
    uint32_t size
    uint16_t from_port
    uint16_t to_port
    uint32_t generation  # of the port that it is for: its number may be another's when it arrives
    uint32_t gap[3]


cdef inline uint8_t *frame_copy(pool_cache *cache, const port_frame *f) noexcept nogil:
    """A copy of the frame and its virtio-net header in one buffer, or NULL if none is left."""
    cdef uint8_t *copy = pool_acquire(cache, POOL_SMALL if f.size <= SMALL_FRAME_BYTES else POOL_LARGE)
    cdef uint8_t *end
    cdef uint32_t i
    if copy == NULL:
        return NULL
    memcpy(copy - FRAME_VNET_BYTES, f.head.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES + f.head.size)
    end = copy + f.head.size
    for i in range(f.rest_count):
        memcpy(end, f.rest[i].iov_base, f.rest[i].iov_len)
        end += f.rest[i].iov_len
    return copy


cdef inline bint queue_put(
    ring_end *ring, pool_cache *cache, uint8_t *copy, const port_frame *f, uint16_t to, uint32_t generation
) noexcept nogil:
    """Send a `frame_copy`; it is released if the ring is full."""
    cdef queued_frame item
    item.offset = <uint64_t>(copy - cache.pool.base)
    item.size = f.size
    item.from_port = f.from_port
    item.to_port = to
    item.generation = generation
    if ring_enqueue_burst(ring, <const uint8_t *>&item, 1):
        return True
    pool_release(cache, copy)
    return False


cdef inline uint32_t queue_take(ring_end *ring, queued_frame *items, uint32_t most) noexcept nogil:
    return ring_dequeue_burst(ring, <uint8_t *>items, most)


cdef inline void queued_frame_show(const pool_cache *cache, const queued_frame *item, port_frame *f) noexcept nogil:
    """Describe a frame that was taken; its buffer is released by whoever took it."""
    memset(f, 0, sizeof(port_frame))
    f.head.data = cache.pool.base + item.offset
    f.head.size = f.size = item.size
    f.head.headroom = BUFFER_HEADROOM
    f.head.l3 = ETHERNET_HEADER_BYTES
    f.head.flags = FRAME_VNET
    f.from_port = item.from_port
