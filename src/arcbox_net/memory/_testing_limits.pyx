"""What benchmarks of the pool and the ring are measured beside: the bare machine, and malloc."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from arcbox_net.abi.atomics cimport abx_load_acquire_u64, abx_store_release_u64
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.memory._testing_loops cimport deadline_in, waited_enough
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.pool cimport SMALL_FRAME_BYTES


def bounce(uint64_t[::1] line, uint64_t first, uint64_t count, double timeout_s=10.0):
    """Wait for *line*[0] to be *first*, then for every second number, and write the next; nanoseconds it took."""
    cdef uint64_t *word = &line[0]
    cdef uint64_t started = monotonic_ns()
    cdef uint64_t deadline = deadline_in(timeout_s)
    cdef uint64_t i
    cdef uint32_t spins = 0
    with nogil:
        for i in range(count):
            while abx_load_acquire_u64(word) != first + 2 * i:
                if waited_enough(&spins, deadline):
                    break
            abx_store_release_u64(word, first + 2 * i + 1)
    return monotonic_ns() - started


def array_pass(uint64_t[::1] slots, uint64_t count, uint32_t burst):
    """Write *count* numbers to *slots* (a power of two) and read them again, *burst* at a time, in one thread; ns."""
    cdef volatile uint64_t *items = &slots[0]
    cdef uint64_t mask = slots.shape[0] - 1
    cdef uint64_t started = monotonic_ns()
    cdef uint64_t done = 0
    cdef uint64_t wrong = 0
    cdef uint32_t i
    with nogil:
        while done < count:
            for i in range(burst):
                items[(done + i) & mask] = done + i
            for i in range(burst):
                wrong += items[(done + i) & mask] != done + i
            done += burst
    assert wrong == 0
    return monotonic_ns() - started


def malloc_free(uint64_t rounds, uint32_t burst):
    """Allocate, touch and free *burst* pieces as large as a small frame *rounds* times; nanoseconds it took."""
    cdef uint8_t *pieces[BURST_MAX]
    cdef uint64_t started = monotonic_ns()
    cdef uint64_t _
    cdef uint32_t i
    with nogil:
        for _ in range(rounds):
            for i in range(burst):
                pieces[i] = <uint8_t *>malloc(SMALL_FRAME_BYTES)
                (<volatile uint8_t *>pieces[i])[0] = 0
            for i in range(burst):
                free(pieces[i])
    return monotonic_ns() - started


def touch(uint8_t[::1] memory, uint32_t stride, uint64_t rounds, uint32_t burst):
    """Only write to *burst* places in *memory*, *stride* bytes apart, *rounds* times; nanoseconds it took."""
    cdef volatile uint8_t *base = &memory[0]
    assert memory.shape[0] >= <Py_ssize_t>stride * burst
    cdef uint64_t started = monotonic_ns()
    cdef uint64_t _
    cdef uint32_t i
    with nogil:
        for _ in range(rounds):
            for i in range(burst):
                base[<size_t>i * stride] = 0
    return monotonic_ns() - started
