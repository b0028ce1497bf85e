"""A ring between one producer and one consumer, two threads or two processes: hot code's side of ring.pyx.

Indexes run freely and are 64 bits wide; index & mask is the slot. Each side has a `ring_end` of its own, in memory that
the other does not see: its own index, and the other's as last read. So what the other side writes to shared memory can
be wrong, but cannot lead us out of the slots: an index that is further away than the capacity is counted in `corrupt`
and not used. The slots are the other side's to change at any time if it is hostile: copy, check the copy, use the copy.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.abi.atomics cimport abx_exchange_u32, abx_load_acquire_u64, abx_store_release_u64
from arcbox_net.abi.build cimport ABX_DEBUG
from arcbox_net.abi.wakeup cimport abx_wakeup, abx_wakeup_signal
from arcbox_net.memory.shared cimport SharedMemory

cdef enum:
    RING_CAPACITY_MIN = 2
    RING_CAPACITY_MAX = 1 << 24
    RING_ITEM_BYTES_MAX = 64
    RING_PUBLISH_MAX = 32  # items that `ring_dequeue` takes before it says so
    RING_SLOTS_OFFSET = 512

cdef enum:  # ring_end.role
    RING_PRODUCER = 0
    RING_CONSUMER = 1

cdef struct ring_header:  # in shared memory; the gaps keep each writer in 128 bytes (two cache lines) of its own
    uint64_t magic
    uint32_t version
    uint32_t item_size
    uint64_t capacity
    uint32_t threads[2]  # debug builds: who uses it, by role
    uint8_t gap[96]
    uint64_t head  # items ever put in: the producer's
    uint8_t head_gap[120]
    uint64_t tail  # items ever taken out: the consumer's
    uint8_t tail_gap[120]
    uint32_t need_wake  # the consumer sleeps, or is about to
    uint8_t wake_gap[124]

cdef struct ring_end:
    ring_header *shared
    uint8_t *slots
    uint64_t mask
    uint64_t own  # the producer's head, or the consumer's tail
    uint64_t other  # the other side's index when it was last read
    uint64_t published  # of the consumer: the tail that the producer can see
    uint64_t corrupt  # indexes read that cannot be
    uint32_t publish_after
    uint32_t item_shift
    uint32_t role
    uint32_t intruder  # debug builds: a thread that used this end beside its owner
    int event_fd  # that the consumer waits for, or the producer signals
    uint8_t gap[128]


cdef bint ring_claim(ring_end *end) noexcept nogil


cdef inline uint64_t ring_room(ring_end *producer, uint64_t wanted) noexcept nogil:
    """Free slots. The consumer's index is read again only if fewer than *wanted* are known to be free."""
    cdef uint64_t capacity = producer.mask + 1
    cdef uint64_t tail
    if capacity - (producer.own - producer.other) < wanted:
        tail = abx_load_acquire_u64(&producer.shared.tail)
        if producer.own - tail > capacity:
            producer.corrupt += 1
            return 0
        producer.other = tail
    return capacity - (producer.own - producer.other)


cdef inline uint64_t ring_items(ring_end *consumer, uint64_t wanted) noexcept nogil:
    """Items to take. The producer's index is read again only if fewer than *wanted* are known to be there."""
    cdef uint64_t head
    if consumer.other - consumer.own < wanted:
        head = abx_load_acquire_u64(&consumer.shared.head)
        if head - consumer.own > consumer.mask + 1:
            consumer.corrupt += 1
            return 0
        consumer.other = head
    return consumer.other - consumer.own


cdef inline uint32_t _span(const ring_end *end, uint32_t count, uint8_t **span) noexcept nogil:
    """How many of *count* slots from the end's own index on lie in one piece, and where."""
    cdef uint64_t place = end.own & end.mask
    span[0] = end.slots + (place << end.item_shift)
    return <uint32_t>min(<uint64_t>count, end.mask + 1 - place)


cdef inline uint32_t ring_reserve(ring_end *producer, uint32_t wanted, uint8_t **span) noexcept nogil:
    """Where the next items go: up to *wanted* slots in one piece; 0 when the ring is full."""
    if ABX_DEBUG and not ring_claim(producer):
        return 0
    return _span(producer, <uint32_t>min(ring_room(producer, wanted), <uint64_t>wanted), span)


cdef inline void ring_commit(ring_end *producer, uint32_t count) noexcept nogil:
    """Hand over the first *count* slots of what was reserved."""
    producer.own += count
    abx_store_release_u64(&producer.shared.head, producer.own)


cdef inline uint32_t ring_peek(ring_end *consumer, uint32_t wanted, uint8_t **span) noexcept nogil:
    """Where the next items are: up to *wanted* slots in one piece; 0 when the ring is empty."""
    if ABX_DEBUG and not ring_claim(consumer):
        return 0
    return _span(consumer, <uint32_t>min(ring_items(consumer, wanted), <uint64_t>wanted), span)


cdef inline void ring_publish(ring_end *consumer) noexcept nogil:
    consumer.published = consumer.own
    abx_store_release_u64(&consumer.shared.tail, consumer.own)


cdef inline void ring_release(ring_end *consumer, uint32_t count) noexcept nogil:
    """Give the first *count* slots of what was peeked at back to the producer."""
    consumer.own += count
    ring_publish(consumer)


cdef inline uint32_t ring_enqueue_burst(ring_end *producer, const uint8_t *items, uint32_t count) noexcept nogil:
    """Put *items* in, as many as there is room for; how many."""
    cdef uint8_t *span
    cdef uint32_t fit, first
    if ABX_DEBUG and not ring_claim(producer):
        return 0
    fit = <uint32_t>min(ring_room(producer, count), <uint64_t>count)
    first = _span(producer, fit, &span)
    memcpy(span, items, <size_t>first << producer.item_shift)
    if first < fit:  # the rest goes to the slots from 0 on
        items += <size_t>first << producer.item_shift
        memcpy(producer.slots, items, <size_t>(fit - first) << producer.item_shift)
    ring_commit(producer, fit)
    return fit


cdef inline uint32_t ring_dequeue_burst(ring_end *consumer, uint8_t *items, uint32_t count) noexcept nogil:
    """Take up to *count* items out; how many."""
    cdef uint8_t *span
    cdef uint32_t found, first
    if ABX_DEBUG and not ring_claim(consumer):
        return 0
    found = <uint32_t>min(ring_items(consumer, count), <uint64_t>count)
    first = _span(consumer, found, &span)
    memcpy(items, span, <size_t>first << consumer.item_shift)
    if first < found:
        items += <size_t>first << consumer.item_shift
        memcpy(items, consumer.slots, <size_t>(found - first) << consumer.item_shift)
    ring_release(consumer, found)
    return found


cdef inline bint ring_enqueue(ring_end *producer, uint64_t item) noexcept nogil:
    """Put one item of 8 bytes in; whether there was room."""
    if ABX_DEBUG and not ring_claim(producer):
        return False
    if ring_room(producer, 1) == 0:
        return False
    (<uint64_t *>producer.slots)[producer.own & producer.mask] = item
    ring_commit(producer, 1)
    return True


cdef inline bint ring_dequeue(ring_end *consumer, uint64_t *item) noexcept nogil:
    """Take one item of 8 bytes out; whether there was one.

    The producer learns of it after `publish_after` items, or when the ring is found empty: a cache line that goes back
    and forth for each item would cost more than the items.
    """
    if ABX_DEBUG and not ring_claim(consumer):
        return False
    if consumer.other == consumer.own:
        if consumer.published != consumer.own:
            ring_publish(consumer)
        if ring_items(consumer, 1) == 0:
            return False
    item[0] = (<uint64_t *>consumer.slots)[consumer.own & consumer.mask]
    consumer.own += 1
    if consumer.own - consumer.published >= consumer.publish_after:
        ring_publish(consumer)
    return True


cdef inline void ring_wake(ring_end *producer) noexcept nogil:
    """Wake the consumer if it sleeps: to be called after each burst that was put in.

    Both sides exchange `need_wake`, so one exchange is the later one. If ours is, it sees the consumer's 1. If the
    consumer's is, the consumer sees the head that we stored before, and does not sleep.
    """
    if abx_exchange_u32(&producer.shared.need_wake, 0):
        abx_wakeup_signal(producer.event_fd)


cdef inline bint ring_arm(ring_end *consumer) noexcept nogil:
    """Have the next `ring_wake` signal. False if there are items, and so no reason to sleep."""
    abx_exchange_u32(&consumer.shared.need_wake, 1)
    if ring_items(consumer, 1) == 0:
        return True
    abx_exchange_u32(&consumer.shared.need_wake, 0)
    return False


cdef class LockFreeRing:
    cdef ring_end *producer  # for the one thread that puts in, the other for the one that takes out
    cdef ring_end *consumer
    cdef SharedMemory memory
    cdef abx_wakeup wakeup
    cdef uint32_t reserved
    cdef uint32_t peeked

    cdef int _open(self, uint64_t capacity, uint32_t item_size) except -1
    cdef uint32_t _push(self, const uint8_t *items, uint32_t count) except? 0xFFFFFFFF
    cdef uint32_t _pop(self, uint8_t *items, uint32_t count) except? 0xFFFFFFFF
    cdef uint32_t _whole(self, Py_ssize_t size) except 0
    cdef int _check(self, ring_end *end) except -1
    cdef object _view(self, uint8_t *span, uint32_t count, bint readonly)


cdef class RingSpan:
    cdef LockFreeRing ring
    cdef uint8_t *base
    cdef Py_ssize_t size
    cdef bint readonly
