"""Memory under a descriptor, and its mapping."""

from libc.stdint cimport uint8_t


cdef class SharedMemory:
    cdef uint8_t *base
    cdef readonly size_t size
    cdef readonly int fd

    cdef int map(self) except -1
