"""Linux's pipes as buffers of the kernel, and splice. Declarations only."""

from libc.stdint cimport int64_t


cdef extern from "fcntl.h" nogil:
    int F_GETPIPE_SZ, F_SETPIPE_SZ
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE

    ssize_t splice(
        int fd_in, int64_t *offset_in, int fd_out, int64_t *offset_out, size_t size, unsigned int flags
    )


cdef extern from "unistd.h" nogil:
    int pipe2(int fds[2], int flags)
