"""Atomic loads and stores on plain integers. Declarations only."""

from libc.stdint cimport uint64_t


cdef extern from "atomics.h" nogil:
    uint64_t abx_load_relaxed_u64(const uint64_t *p)
    void abx_store_relaxed_u64(uint64_t *p, uint64_t v)
