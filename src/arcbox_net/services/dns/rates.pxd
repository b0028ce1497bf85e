"""The rate limiter as the hot path sees it."""

from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef enum:
    PREFIXES_MAX = 8


cdef struct allowance:
    uint8_t address[16]
    int64_t last_ms
    double tokens


cdef class RateLimiter:
    cdef allowance *_sets
    cdef allowance _prefixes[PREFIXES_MAX]
    cdef double _per_ms
    cdef double _burst
    cdef uint64_t _seed0
    cdef uint64_t _seed1

    cdef bint take(self, const uint8_t *address, int64_t now_ms) noexcept nogil
