"""Descriptors that a port reads frames from and writes frames to: the queues of an interface."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame, port_ops

cdef enum:
    QUEUES_MAX = 16
    MESSAGE_QUEUE_ADD = 200
    MESSAGE_QUEUES_CLOSE = 201
    REPORT_QUEUE_LOST = 200

cdef struct queue_port:  # the first member of a port that has queues
    port base
    int fds[QUEUES_MAX]
    uint32_t count
    uint32_t ready  # a bit for each queue that may have frames
    uint32_t turn  # where the next burst begins


cdef inline uint32_t queues_next(const queue_port *q) noexcept nogil:
    """The queue whose turn it is among those that may have frames, of which there is one."""
    cdef uint32_t i, queue = 0
    for i in range(q.count):
        queue = (q.turn + i) % q.count
        if q.ready >> queue & 1:
            break
    return queue


cdef void queues_set_ops(
    port_ops *ops,
    uint32_t (*rx_burst)(port *, port_frame *, uint32_t) noexcept nogil,
    void (*tx_burst)(port *, port_frame **, uint32_t) noexcept nogil,
) noexcept
cdef void queues_init(queue_port *q, const port_ops *ops, uint32_t frame_max, bint uso) noexcept
cdef void queues_stopped(queue_port *q, uint32_t queue, int error) noexcept nogil
cdef void queues_refused(queue_port *q, int error) noexcept nogil
cdef void queues_lost(queue_port *q, int error) noexcept nogil
