"""Accepting clients, and what to do when descriptors run out: one is kept in reserve to turn the waiting ones away."""

from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTO, errno

from arcbox_net.abi.files cimport O_CLOEXEC, O_RDONLY, close, open
from arcbox_net.abi.socket cimport SOCK_CLOEXEC, SOCK_NONBLOCK, accept4, sockaddr, sockaddr_in6, socklen_t
from arcbox_net.relay.flow cimport relay_worker

cdef enum:
    ACCEPTS_MAX = 64  # of one listener in one turn

cdef enum acceptance:
    ACCEPT_TAKEN
    ACCEPT_FAILED  # that one; another may wait
    ACCEPT_NOTHING  # nobody waits, or the listener itself is broken: its owner removes it
    ACCEPT_SHORTAGE


cdef inline bint is_shortage(int failure) noexcept nogil:
    """Whether an errno means that there are no descriptors, or no memory for one."""
    return failure in (EMFILE, ENFILE, ENOBUFS, ENOMEM)


cdef inline acceptance accept_next(int listener_fd, int *fd, sockaddr_in6 *client) noexcept nogil:
    """Take the next client that waits: its socket and name."""
    cdef socklen_t size = sizeof(sockaddr_in6)
    fd[0] = accept4(listener_fd, <sockaddr *>client, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if fd[0] >= 0:
        return ACCEPT_TAKEN
    if errno == EAGAIN:
        return ACCEPT_NOTHING
    if is_shortage(errno):
        return ACCEPT_SHORTAGE
    return ACCEPT_FAILED if errno in (EINTR, ECONNABORTED, EPROTO, EPERM) else ACCEPT_NOTHING


cdef inline void reserve_spend(relay_worker *w) noexcept nogil:
    """Give up the descriptor kept in reserve, so that one client at a time can be accepted and reset."""
    if w.reserve_fd >= 0:
        close(w.reserve_fd)


cdef inline void reserve_restore(relay_worker *w) noexcept nogil:
    w.reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC)
