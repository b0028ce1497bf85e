"""Memory of whole pages: mmap. Declarations only."""

from libc.stdint cimport int64_t


cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE
    int MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

    void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t size)


cdef extern from "sys/stat.h" nogil:
    struct stat_t "stat":
        int64_t st_size

    int fstat(int fd, stat_t *status)
