"""Memory of whole pages, of our own or shared by file descriptor: mmap, memfd, seals. Declarations only."""

from libc.stdint cimport int64_t


cdef extern from "sys/mman.h" nogil:
    int PROT_READ, PROT_WRITE
    int MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS
    int MADV_HUGEPAGE
    unsigned int MFD_CLOEXEC, MFD_ALLOW_SEALING
    void *MAP_FAILED

    int memfd_create(const char *name, unsigned int flags)
    void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t size)
    int madvise(void *address, size_t size, int advice)


cdef extern from "fcntl.h" nogil:
    int F_ADD_SEALS, F_GET_SEALS, F_DUPFD_CLOEXEC
    int F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


cdef extern from "sys/stat.h" nogil:
    struct stat_t "stat":
        int64_t st_size

    int fstat(int fd, stat_t *status)


cdef extern from "unistd.h" nogil:
    int ftruncate(int fd, int64_t size)
