"""Waiting for one descriptor. Declarations only."""


cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
        short revents

    short POLLIN
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
