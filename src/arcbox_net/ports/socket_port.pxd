"""What the ports over a connected socket share: the peer that control hands over, its loss, what it has not taken.

A port without a peer keeps its number, its bindings and its counters, and is not PORT_UP. Nothing that a peer or the
kernel does ends the port: a peer that is lost is reported, and control brings the next one.
"""

from libc.errno cimport (
    EAGAIN, EBADF, ECONNABORTED, ECONNREFUSED, ECONNRESET, EINVAL, EISCONN, ENOBUFS, ENOTCONN, EPIPE, ETIMEDOUT, errno,
)
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.abi.files cimport close
from arcbox_net.abi.poller cimport POLL_EDGE, POLL_END, POLL_READ, POLL_WRITE
from arcbox_net.abi.socket_calls cimport ABX_FULL_IS_ENOBUFS, abx_socket_leave, abx_socket_prepare
from arcbox_net.dataplane.port cimport (
    PORT_DROP_DOWN, PORT_DROP_FULL, PORT_MESSAGE_FIRST, PORT_NONE, PORT_READY, PORT_UP, port, port_drop, port_frame,
    port_message, port_ops, port_sent,
)
from arcbox_net.dataplane.port_send cimport TAKES_LARGE
from arcbox_net.dataplane.worker cimport worker_report, worker_tick_soon, worker_unwatch, worker_watch
from arcbox_net.ports.backlog cimport backlog, backlog_clear, backlog_put

cdef enum:
    VECTORS_MAX = 512  # pieces of memory in one call
    RECEIVES_MAX = 4  # calls in one rx_burst that bring no frame worth handing out
    SEND_BUFFER_BYTES = 1 << 18  # asked of the kernel, which doubles it, up to net.core.wmem_max

cdef enum:  # messages
    MESSAGE_CONNECT = PORT_MESSAGE_FIRST  # an int: a connected socket, the port's own once the answer is 0
    MESSAGE_DISCONNECT  # ENOTCONN if the peer is lost, which is reported, or never was

cdef enum:  # reports: the peer is gone
    REPORT_EOF = PORT_MESSAGE_FIRST  # it hung up; the bytes of a frame that it did not finish
    REPORT_ERROR  # an errno
    REPORT_BAD_LENGTH  # it said a frame has so many bytes

cdef struct socket_port:
    port base
    int fd  # -1: no peer
    bint drained  # nothing comes before the next event
    bint blocked  # POLL_WRITE is watched: there is no room for what waits
    bint again  # at the next tick: the kernel refused for a reason of its own
    backlog waiting  # empty, unless blocked or again


cdef inline void socket_port_init(socket_port *p, const port_ops *ops, uint32_t frame_max) noexcept nogil:
    p.base.ops = ops
    p.base.frame_max = frame_max
    p.base.takes = TAKES_LARGE  # the guest's card has no offloads; its MTU may be large instead
    p.base.number = PORT_NONE
    p.fd = -1


cdef inline bint socket_port_flows(const socket_port *p) noexcept nogil:
    """Whether what is to be sent may be tried at once."""
    return p.fd >= 0 and not p.blocked and not p.again


cdef inline int socket_port_watch(socket_port *p) noexcept nogil:
    """Watch the socket, for room only if that is missing. There is an event at once if there is reason for one."""
    cdef uint32_t events = POLL_READ | POLL_END | POLL_EDGE
    if p.blocked:
        events |= POLL_WRITE
    worker_unwatch(&p.base, p.fd)
    return worker_watch(&p.base, p.fd, events, 0)


cdef inline void socket_port_disconnect(socket_port *p) noexcept nogil:
    if p.fd < 0:
        return
    p.base.flags &= ~<uint16_t>(PORT_UP | PORT_READY)
    worker_unwatch(&p.base, p.fd)
    abx_socket_leave(p.fd)
    close(p.fd)
    p.fd = -1
    p.blocked = p.again = False
    backlog_clear(&p.waiting)


cdef inline void socket_port_lose(socket_port *p, uint32_t report, int64_t value) noexcept nogil:
    socket_port_disconnect(p)
    worker_report(&p.base, report, value)


cdef inline int socket_port_message(socket_port *p, const port_message *message) noexcept nogil:
    cdef int failure
    if message.kind == MESSAGE_DISCONNECT:
        if p.fd < 0:
            return -ENOTCONN
        socket_port_disconnect(p)
        return 0
    if message.kind != MESSAGE_CONNECT or message.size != sizeof(int):
        return -EINVAL
    if p.fd >= 0:
        return -EISCONN
    memcpy(&p.fd, message.payload, sizeof(int))
    failure = -EBADF if abx_socket_prepare(p.fd, SEND_BUFFER_BYTES) < 0 else socket_port_watch(p)
    if failure < 0:
        p.fd = -1
        return failure
    p.drained = False
    p.base.flags |= PORT_UP | PORT_READY
    return 0


cdef inline void socket_port_refused(socket_port *p) noexcept nogil:
    """The socket failed a call for the reason in errno, which is not that it would have to wait."""
    cdef int failure = errno
    if failure in (EPIPE, ECONNRESET, ECONNREFUSED, ECONNABORTED, ENOTCONN, ETIMEDOUT, EBADF):
        socket_port_lose(p, REPORT_ERROR, failure)
    else:
        p.again = True


cdef inline void socket_port_stuck(socket_port *p) noexcept nogil:
    """The socket has no room."""
    p.blocked = True
    socket_port_watch(p)


cdef inline void socket_port_freed(socket_port *p) noexcept nogil:
    """Nothing waits any more."""
    if p.blocked:
        p.blocked = False
        socket_port_watch(p)


cdef inline void socket_port_read_again(socket_port *p) noexcept nogil:
    if p.fd >= 0:
        p.drained = False
        p.base.flags |= PORT_READY


cdef inline void socket_port_put_by(socket_port *p, port_frame **frames, uint32_t count) noexcept nogil:
    """Frames that cannot be sent now wait; without a peer, or room, they are dropped."""
    cdef uint32_t i
    for i in range(count):
        if p.fd < 0:
            port_drop(&p.base, PORT_DROP_DOWN, 1)
        elif backlog_put(&p.waiting, frames[i], 0):
            port_sent(&p.base, 1, frames[i].size)
        else:
            port_drop(&p.base, PORT_DROP_FULL, 1)


cdef inline void socket_port_unsent(socket_port *p) noexcept nogil:
    """The socket did not send, for the reason in errno."""
    if errno == EAGAIN:
        socket_port_stuck(p)
    elif ABX_FULL_IS_ENOBUFS and errno == ENOBUFS:
        p.again = True
        worker_tick_soon(&p.base)
    else:
        socket_port_refused(p)
