"""Memory for tables that are made once: zeros, aligned to cache lines, in huge pages where the kernel has them.

A page costs nothing until it is written, so a table that is mostly empty is small.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uintptr_t

from arcbox_net.abi.mapping cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from arcbox_net.abi.shared_memory cimport abx_advise_huge_pages

cdef enum:
    TABLE_PAGE_BYTES = 16_384  # the largest that a system has
    HUGE_PAGE_BYTES = 1 << 21


cdef inline size_t table_pages(size_t size) noexcept nogil:
    """The bytes of the pages that hold *size* bytes."""
    return (size + TABLE_PAGE_BYTES - 1) & ~<size_t>(TABLE_PAGE_BYTES - 1)


cdef inline void *table_map(size_t size) noexcept nogil:
    cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    return NULL if base == MAP_FAILED else base


cdef inline void *table_allocate(size_t size) noexcept nogil:
    """Return *size* bytes of zeros, or NULL."""
    cdef uint8_t *base
    cdef size_t ahead
    size = table_pages(size)
    if size < HUGE_PAGE_BYTES:
        return table_map(size)
    # A kernel before 6.7 does not place large mappings where huge pages can begin: take more, and trim both ends.
    base = <uint8_t *>table_map(size + HUGE_PAGE_BYTES)
    if base == NULL:
        return NULL
    ahead = <size_t>(-<uintptr_t>base) % HUGE_PAGE_BYTES
    if ahead:
        munmap(base, ahead)
    base += ahead
    munmap(base + size, HUGE_PAGE_BYTES - ahead)
    abx_advise_huge_pages(base, size)
    return base


cdef inline void table_release(void *base, size_t size) noexcept nogil:
    """Give back what `table_allocate(size)` returned; NULL is nothing."""
    if base != NULL:
        munmap(base, table_pages(size))
