"""Loops of a producer's and a consumer's thread; each module that includes them compiles them on its own."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_pause
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.threads cimport sched_yield
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.ring cimport (
    LockFreeRing, ring_dequeue, ring_dequeue_burst, ring_end, ring_enqueue, ring_enqueue_burst,
)

cdef enum:
    SPINS_PER_YIELD = 1 << 10  # there may be fewer cores than threads
    SPINS_PER_CLOCK = 1 << 14


cdef inline bint waited_enough(uint32_t *spins, uint64_t deadline) noexcept nogil:
    """Spin once more; now and then look whether the other side has come to an end."""
    spins[0] += 1
    abx_pause()
    if spins[0] % SPINS_PER_YIELD == 0:
        sched_yield()
    return spins[0] % SPINS_PER_CLOCK == 0 and monotonic_ns() > deadline


cdef inline uint64_t deadline_in(double timeout_s) noexcept nogil:
    return monotonic_ns() + <uint64_t>(timeout_s * 1e9)


cdef inline uint64_t put_numbers(LockFreeRing ring, uint64_t count, uint32_t burst, double timeout_s):
    """Put 0 to *count* - 1 in, *burst* (at most BURST_MAX) at once, without the GIL; how many went in."""
    cdef ring_end *end = ring.producer
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t items[BURST_MAX]
    cdef uint64_t done = 0
    cdef uint32_t spins = 0
    cdef uint32_t accepted, i
    with nogil:
        while done < count:
            if burst == 1:
                accepted = ring_enqueue(end, done)
            else:
                for i in range(burst):
                    items[i] = done + i
                accepted = ring_enqueue_burst(end, <uint8_t *>items, <uint32_t>min(<uint64_t>burst, count - done))
            done += accepted
            if accepted == 0 and waited_enough(&spins, deadline):
                break
    return done


cdef inline tuple take_numbers(LockFreeRing ring, uint64_t count, uint32_t burst, double timeout_s):
    """Take *count* numbers out; how many there were before the end, and how many of them were not the next."""
    cdef ring_end *end = ring.consumer
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t items[BURST_MAX]
    cdef uint64_t done = 0
    cdef uint64_t wrong = 0
    cdef uint32_t spins = 0
    cdef uint32_t found, i
    with nogil:
        while done < count:
            if burst == 1:
                found = ring_dequeue(end, items)
            else:
                found = ring_dequeue_burst(end, <uint8_t *>items, burst)
            for i in range(found):
                wrong += items[i] != done + i
            done += found
            if found == 0 and waited_enough(&spins, deadline):
                break
    return done, wrong
