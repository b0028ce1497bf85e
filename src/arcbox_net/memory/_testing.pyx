"""What tests and benchmarks need of the pool and the ring that has no Python face: threads without the GIL, misuse."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.build cimport ABX_DEBUG
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.memory._testing_loops cimport deadline_in, put_numbers, take_numbers, waited_enough
from arcbox_net.memory.frame cimport BURST_MAX, frame
from arcbox_net.memory.pool cimport (
    POOL_SMALL, PoolCache, pool_acquire, pool_acquire_burst, pool_release, pool_release_burst,
)
from arcbox_net.memory.ring cimport LockFreeRing, ring_dequeue, ring_end, ring_enqueue

DEBUG = bool(ABX_DEBUG)


def produce(ring, count, burst=1, timeout_s=120.0):
    return put_numbers(ring, count, burst, timeout_s)


def consume(ring, count, burst=1, timeout_s=120.0):
    return take_numbers(ring, count, burst, timeout_s)


def send_buffers(PoolCache cache, LockFreeRing ring, uint64_t count, double timeout_s=120.0):
    """Acquire *count* buffers, number them, and put their addresses into *ring*; how many were sent before the end."""
    cdef ring_end *end = ring.producer
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t done = 0
    cdef uint32_t spins = 0
    cdef uint8_t *data = NULL
    with nogil:
        while done < count:
            if data == NULL:
                data = pool_acquire(cache.cache, POOL_SMALL)
            if data != NULL:
                (<uint64_t *>data)[0] = done
                if ring_enqueue(end, <uint64_t>data):
                    data = NULL
                    done += 1
                    continue
            if waited_enough(&spins, deadline):
                break
        if data != NULL:
            pool_release(cache.cache, data)
    return done


def take_buffers(PoolCache cache, LockFreeRing ring, uint64_t count, double timeout_s=120.0):
    """Release *count* buffers that come by *ring*; how many came, and how many held another number than the next."""
    cdef ring_end *end = ring.consumer
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t done = 0
    cdef uint64_t wrong = 0
    cdef uint64_t address
    cdef uint32_t spins = 0
    with nogil:
        while done < count:
            if ring_dequeue(end, &address):
                wrong += (<uint64_t *>address)[0] != done
                pool_release(cache.cache, <uint8_t *>address)
                done += 1
            elif waited_enough(&spins, deadline):
                break
    return done, wrong


def churn(PoolCache cache, uint32_t size_class, uint64_t rounds, uint32_t burst=1):
    """Acquire and release *burst* buffers *rounds* times; nanoseconds that took, without the GIL."""
    cdef frame frames[BURST_MAX]
    cdef uint64_t started = monotonic_ns()
    cdef uint64_t _
    cdef uint8_t *data
    with nogil:
        for _ in range(rounds):
            if burst == 1:
                data = pool_acquire(cache.cache, size_class)
                (<volatile uint8_t *>data)[0] = 0
                pool_release(cache.cache, data)
            else:
                pool_release_burst(cache.cache, frames, pool_acquire_burst(cache.cache, size_class, frames, burst))
    return monotonic_ns() - started


def echo(LockFreeRing arriving, LockFreeRing leaving, uint64_t count, double timeout_s=120.0):
    """Send *count* items back at once; how many."""
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t done = 0
    cdef uint64_t item
    cdef uint32_t spins = 0
    with nogil:
        while done < count:
            if ring_dequeue(arriving.consumer, &item):
                ring_enqueue(leaving.producer, item)
                done += 1
            elif waited_enough(&spins, deadline):
                break
    return done


def round_trips(LockFreeRing leaving, LockFreeRing arriving, uint64_t[::1] took_ns, double timeout_s=120.0):
    """How long each item took to the echo and back; how many came back."""
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t started, item
    cdef uint32_t spins = 0
    cdef Py_ssize_t i = 0
    with nogil:
        while i < took_ns.shape[0]:
            started = monotonic_ns()
            ring_enqueue(leaving.producer, i)
            while not ring_dequeue(arriving.consumer, &item):
                if waited_enough(&spins, deadline):
                    break
            else:
                took_ns[i] = monotonic_ns() - started
                i += 1
                continue
            break
    return i


def release_twice(PoolCache cache):
    cdef uint8_t *data = pool_acquire(cache.cache, POOL_SMALL)
    pool_release(cache.cache, data)
    pool_release(cache.cache, data)


def release_foreign(PoolCache cache):
    cdef uint8_t elsewhere = 0
    pool_release(cache.cache, &elsewhere)


def write_after_release(PoolCache cache, Py_ssize_t place):
    """Release a buffer, write to it *place* bytes from its frame's start, and acquire it again."""
    cdef uint8_t *data = pool_acquire(cache.cache, POOL_SMALL)
    pool_release(cache.cache, data)
    data[place] = 1
    pool_release(cache.cache, pool_acquire(cache.cache, POOL_SMALL))


def hold(PoolCache cache, uint32_t size_class, uint32_t count):
    """Acquire *count* buffers; how many there were. They stay held."""
    cdef uint32_t i
    for i in range(count):
        if pool_acquire(cache.cache, size_class) == NULL:
            return i
    return count
