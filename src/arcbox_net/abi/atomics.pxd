"""Atomic operations on plain integers. Declarations only."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "atomics.h" nogil:
    uint64_t abx_load_relaxed_u64(const uint64_t *p)
    void abx_store_relaxed_u64(uint64_t *p, uint64_t v)
    uint32_t abx_load_relaxed_u32(const uint32_t *p)
    void abx_store_relaxed_u32(uint32_t *p, uint32_t v)

    uint64_t abx_load_acquire_u64(const uint64_t *p)
    void abx_store_release_u64(uint64_t *p, uint64_t v)

    void abx_add_relaxed_u64(uint64_t *p, uint64_t v)
    uint32_t abx_exchange_u32(uint32_t *p, uint32_t v)
    # Stores *v* where *expected* is; if something else is there, False, and *expected* is what is there. May fail
    # without reason: use it in a loop.
    bint abx_compare_exchange_u64(uint64_t *p, uint64_t *expected, uint64_t v)

    uint16_t abx_load_relaxed_u16(const uint16_t *p)
    void abx_store_relaxed_u16(uint16_t *p, uint16_t v)
    uint16_t abx_load_acquire_u16(const uint16_t *p)
    void abx_store_release_u16(uint16_t *p, uint16_t v)

    void abx_fence()
    void abx_snapshot(void *copy, const void *source, size_t size)

    void abx_pause()
