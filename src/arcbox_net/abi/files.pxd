"""Descriptors. Declarations only."""

from arcbox_net.abi.socket cimport iovec


cdef extern from "fcntl.h" nogil:
    int O_CLOEXEC, O_NONBLOCK, O_RDONLY
    int F_DUPFD_CLOEXEC, F_SETFL

    int open(const char *path, int flags)
    int fcntl(int fd, int command, ...)


cdef extern from "unistd.h" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buffer, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)


cdef extern from "sys/uio.h" nogil:
    ssize_t writev(int fd, const iovec *vectors, int count)
