"""Which descriptors a port has, which of them may have frames, and what is left when their interface goes away.

Control opens the descriptors and hands them over one by one. When the interface vanishes, the kernel would report
that for ever: the descriptors are given up at once, and control is told. It may hand over others later.
"""

from libc.errno cimport EAGAIN, EBADFD, EINTR, EINVAL, EIO, ENETDOWN, ENOBUFS, ENOMEM, ENOSPC, ENXIO
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ
from arcbox_net.abi.files cimport close
from arcbox_net.dataplane.port cimport (
    PORT_DROP_DOWN, PORT_DROP_FULL, PORT_DROP_KERNEL, PORT_READY, PORT_UP, TAKES_CSUM, TAKES_ECN, TAKES_TSO4,
    TAKES_TSO6, TAKES_USO, port, port_drop, port_frame, port_message, port_ops,
)
from arcbox_net.dataplane.worker cimport worker_report, worker_unwatch, worker_watch

QUEUE_ADD = MESSAGE_QUEUE_ADD  # payload: a descriptor as an int, the port's from the answer 0 on
QUEUES_CLOSE = MESSAGE_QUEUES_CLOSE  # give up those that are there
QUEUE_LOST = REPORT_QUEUE_LOST  # value: the errno that said so


cdef void queues_set_ops(
    port_ops *ops,
    uint32_t (*rx_burst)(port *, port_frame *, uint32_t) noexcept nogil,
    void (*tx_burst)(port *, port_frame **, uint32_t) noexcept nogil,
) noexcept:
    """What all ports with queues do alike, and what this kind does. Frames are the port's own until it reads again."""
    ops.rx_burst = rx_burst
    ops.rx_release = _nothing_to_release
    ops.tx_burst = tx_burst
    ops.tx_flush = _nothing_to_flush
    ops.arm = _arm
    ops.event = _event
    ops.message = _message
    ops.close = _close


cdef void queues_init(queue_port *q, const port_ops *ops, uint32_t frame_max, bint uso) noexcept:
    """A port that has no queues yet, and takes all offloads, UDP's if *uso*."""
    q.base.ops = ops
    q.base.frame_max = frame_max
    q.base.takes = TAKES_CSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_ECN | (TAKES_USO if uso else 0)


cdef void _nothing_to_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void _nothing_to_flush(port *self) noexcept nogil:
    pass


cdef int _message(port *self, const port_message *message) noexcept nogil:
    cdef queue_port *q = <queue_port *>self
    cdef int fd, error
    if message.kind == MESSAGE_QUEUES_CLOSE:
        _close(self)
        return 0
    if message.kind != MESSAGE_QUEUE_ADD or message.size != sizeof(int):
        return -EINVAL
    if q.count == QUEUES_MAX:
        return -ENOSPC
    memcpy(&fd, message.payload, sizeof(int))
    error = worker_watch(self, fd, POLL_READ | POLL_EDGE, q.count)
    if error < 0:
        return error
    q.fds[q.count] = fd
    q.count += 1
    _event(self, q.count - 1, POLL_READ)
    self.flags |= PORT_UP
    return 0


cdef void _event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    """Whatever the event is, the next read tells."""
    cdef queue_port *q = <queue_port *>self
    if tag < q.count:
        q.ready |= <uint32_t>1 << tag
        self.flags |= PORT_READY


cdef bint _arm(port *self) noexcept nogil:
    return (<queue_port *>self).ready == 0


cdef void queues_stopped(queue_port *q, uint32_t queue, int error) noexcept nogil:
    """A read of that queue failed with *error*, most often EAGAIN; the next event has it read again."""
    q.ready &= ~(<uint32_t>1 << queue)
    if error == EBADFD:
        queues_lost(q, error)


cdef void queues_refused(queue_port *q, int error) noexcept nogil:
    """A frame was not taken, and is dropped."""
    if error == EAGAIN or error == ENOBUFS or error == ENOMEM or error == EINTR:
        port_drop(&q.base, PORT_DROP_FULL, 1)
    elif error == EIO or error == ENETDOWN:  # the interface is not up
        port_drop(&q.base, PORT_DROP_DOWN, 1)
    elif error == EBADFD or error == ENXIO:
        port_drop(&q.base, PORT_DROP_DOWN, 1)
        queues_lost(q, error)
    else:
        port_drop(&q.base, PORT_DROP_KERNEL, 1)


cdef void queues_lost(queue_port *q, int error) noexcept nogil:
    """The interface is gone, as *error* says."""
    _close(&q.base)
    worker_report(&q.base, REPORT_QUEUE_LOST, error)


cdef void _close(port *self) noexcept nogil:
    cdef queue_port *q = <queue_port *>self
    cdef uint32_t i
    for i in range(q.count):
        worker_unwatch(self, q.fds[i])
        close(q.fds[i])
    q.count = 0
    q.ready = 0
    self.flags &= ~(PORT_UP | PORT_READY)
