"""Sums of 16-bit words, scalar and by vectors. Declarations only."""

from libc.stdint cimport uint8_t, uint64_t


cdef extern from "checksum.h" nogil:
    enum:
        ABX_SUM_LONG
    ctypedef uint64_t (*abx_sum_kernel)(uint64_t total, const uint8_t *p, size_t size) noexcept
    abx_sum_kernel abx_sum_long
    abx_sum_kernel abx_sum_find(int bytes)
    uint64_t abx_sum_scalar(uint64_t total, const uint8_t *p, size_t size)
