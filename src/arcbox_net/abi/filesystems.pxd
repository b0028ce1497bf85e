"""Which file system a file is on. Declarations only."""


cdef extern from "sys/vfs.h" nogil:
    struct statfs_t "statfs":
        long f_type

    int fstatfs(int fd, statfs_t *status)


cdef extern from "linux/magic.h" nogil:
    long HUGETLBFS_MAGIC
