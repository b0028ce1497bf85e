"""Which descriptors a port has, which of them may have frames, and what is left when their interface goes away.

Control opens the descriptors and hands them over one by one. When the interface vanishes, the kernel would report
that for ever: the descriptors are given up at once, and control is told. It may hand over others later.
"""

from libc.errno cimport EAGAIN, EBADFD, EINTR, EINVAL, EIO, ENETDOWN, ENOBUFS, ENOMEM, ENOSPC, ENXIO
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from arcbox_net.abi.epoll cimport EPOLLET, EPOLLIN
from arcbox_net.abi.files cimport close
from arcbox_net.dataplane.port cimport (
    PORT_DROP_DOWN, PORT_DROP_FULL, PORT_DROP_KERNEL, PORT_READY, PORT_UP, port, port_drop, port_message,
)
from arcbox_net.dataplane.worker cimport worker_report, worker_unwatch, worker_watch

QUEUE_ADD = MESSAGE_QUEUE_ADD  # payload: a descriptor as an int, the port's from the answer 0 on
QUEUE_LOST = REPORT_QUEUE_LOST  # value: the errno that said so


cdef int queues_message(port *self, const port_message *message) noexcept nogil:
    cdef queue_port *q = <queue_port *>self
    cdef int fd, error
    if message.kind != MESSAGE_QUEUE_ADD or message.size != sizeof(int):
        return -EINVAL
    if q.count == QUEUES_MAX:
        return -ENOSPC
    memcpy(&fd, message.payload, sizeof(int))
    error = worker_watch(self, fd, EPOLLIN | EPOLLET, q.count)
    if error < 0:
        return error
    q.fds[q.count] = fd
    q.count += 1
    queues_event(self, q.count - 1, EPOLLIN)
    self.flags |= PORT_UP
    return 0


cdef void queues_event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    """Whatever the event is, the next read tells."""
    cdef queue_port *q = <queue_port *>self
    if tag < q.count:
        q.ready |= <uint32_t>1 << tag
        self.flags |= PORT_READY


cdef bint queues_arm(port *self) noexcept nogil:
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
    queues_close(&q.base)
    worker_report(&q.base, REPORT_QUEUE_LOST, error)


cdef void queues_close(port *self) noexcept nogil:
    cdef queue_port *q = <queue_port *>self
    cdef uint32_t i
    for i in range(q.count):
        worker_unwatch(self, q.fds[i])
        close(q.fds[i])
    q.count = 0
    q.ready = 0
    self.flags &= ~(PORT_UP | PORT_READY)
