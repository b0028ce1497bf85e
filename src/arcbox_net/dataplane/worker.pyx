"""The thread that moves frames between its ports: one nogil loop, from sockets and rings to sockets and rings."""

from libc.stdint cimport int64_t, uint32_t

from arcbox_net.dataplane.port cimport port


cdef int worker_watch(port *p, int fd, uint32_t events, uint32_t tag) noexcept nogil:
    """Call the port's `event` with *tag* when *fd* has *events* (epoll's, edge-triggered if EPOLLET is among them).

    0, or a negative errno.
    """
    return -1


cdef void worker_unwatch(port *p, int fd) noexcept nogil:
    """No longer watch *fd*; to be called before it is closed."""
    pass


cdef void worker_report(port *p, uint32_t kind, int64_t value) noexcept nogil:
    """Tell control of something that happened to the port (its peer went away, a message's late answer)."""
    pass
