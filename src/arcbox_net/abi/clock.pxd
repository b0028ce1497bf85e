"""Monotonic time and short sleeps. Declarations, and the one reading that everything uses."""

from libc.stdint cimport uint64_t


cdef extern from "time.h" nogil:
    ctypedef int clockid_t

    struct timespec:
        long tv_sec
        long tv_nsec

    int CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec *now)
    int nanosleep(const timespec *duration, timespec *rest)


cdef inline uint64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec
