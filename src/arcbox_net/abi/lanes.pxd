"""Four 32-bit words at a time. Declarations only."""

from libc.stdint cimport uint32_t


cdef extern from "lanes.h" nogil:
    uint32_t abx_lanes_match(const uint32_t *words, uint32_t wanted, uint32_t mask)  # a bit for each that matches
