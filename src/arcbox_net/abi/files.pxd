"""Descriptors, pipes and splice. Declarations only."""

from libc.stdint cimport int64_t

from arcbox_net.abi.socket cimport iovec


cdef extern from "fcntl.h" nogil:
    int O_CLOEXEC, O_NONBLOCK, O_RDONLY
    int F_SETFL, F_GETPIPE_SZ, F_SETPIPE_SZ
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE

    int open(const char *path, int flags)
    int fcntl(int fd, int command, ...)
    ssize_t splice(
        int fd_in, int64_t *offset_in, int fd_out, int64_t *offset_out, size_t size, unsigned int flags
    )


cdef extern from "unistd.h" nogil:
    int close(int fd)
    int pipe2(int fds[2], int flags)
    ssize_t read(int fd, void *buffer, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)


cdef extern from "sys/uio.h" nogil:
    ssize_t writev(int fd, const iovec *vectors, int count)


cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)
