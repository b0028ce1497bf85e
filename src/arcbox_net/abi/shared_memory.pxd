"""Memory under a descriptor, whose size nobody can change: see shared_memory.h. Declarations only."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t


cdef extern from "shared_memory.h" nogil:
    const char *ABX_SHARED_KIND  # of descriptor, for messages

    int abx_shared_open(const char *name)
    int abx_shared_size(int fd, int64_t size)  # once
    bint abx_shared_is_fixed(int fd)
    void abx_advise_huge_pages(void *base, size_t size)
