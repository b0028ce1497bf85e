"""Frames for a port of another worker.

In the table of every worker but its own, a port's number leads to a `LinkPort`. What that is to send is copied into
buffers of the pool that the workers share, and goes by the `Link`, a ring from one worker to one other, to the
`LinkEnd` there, which hands it to the port that has this number in its worker's table (`LinkDelivery`). So a frame is
copied once, and no port is touched by two threads. Segments, checksums and whether the port is up are the far side's
matter.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ
from arcbox_net.abi.wakeup cimport abx_wakeup_heard
from arcbox_net.dataplane.frame_queue cimport (
    QUEUED_FRAME_BYTES, frame_copy, queue_put, queue_take, queued_frame, queued_frame_show,
)
from arcbox_net.dataplane.port cimport (
    PORT_DROP_NOWHERE, PORT_DROP_POOL, PORT_DROP_RING, PORT_POLLED, PORT_READY, PORT_UP, TAKES_CSUM, TAKES_ECN,
    TAKES_TSO4, TAKES_TSO6, TAKES_USO, Port, Receiver, port, port_drop, port_frame, port_ops, port_sent, receiver,
)
from arcbox_net.dataplane.port_send cimport port_send
from arcbox_net.dataplane.worker_watch cimport worker_watch
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.pool cimport PacketPool, pool_cache, pool_release
from arcbox_net.memory.ring cimport LockFreeRing, ring_arm, ring_wake


cdef uint32_t _rx_nothing(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    return 0


cdef void _release_nothing(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void _tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef const link_port *link = <const link_port *>self
    cdef pool_cache *buffers = self.owner.buffers
    cdef uint64_t frame_bytes = 0
    cdef uint32_t sent = 0
    cdef uint8_t *copy
    cdef uint32_t i
    for i in range(count):
        copy = frame_copy(buffers, frames[i])
        if copy == NULL:
            port_drop(self, PORT_DROP_POOL, 1)
        elif queue_put(link.leaving, buffers, copy, frames[i], self.number, link.generation):
            sent += 1
            frame_bytes += frames[i].size
        else:
            port_drop(self, PORT_DROP_RING, 1)
    port_sent(self, sent, frame_bytes)


cdef void _tx_flush(port *self) noexcept nogil:
    ring_wake((<link_port *>self).leaving)


cdef int _end_open(port *self) noexcept nogil:
    return worker_watch(self, (<link_end *>self).arriving.event_fd, POLL_READ | POLL_EDGE, 0)


cdef uint32_t _end_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef link_end *end = <link_end *>self
    cdef uint32_t count = queue_take(end.arriving, end.held, budget)
    cdef uint32_t i
    for i in range(count):
        queued_frame_show(self.owner.buffers, &end.held[i], &frames[i])
    return count


cdef void _end_rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    cdef link_end *end = <link_end *>self
    cdef uint32_t i
    for i in range(count):
        pool_release(self.owner.buffers, self.owner.buffers.pool.base + end.held[i].offset)


cdef void _end_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    port_drop(self, PORT_DROP_NOWHERE, count)  # nobody is meant to know the number


cdef void _end_tx_flush(port *self) noexcept nogil:
    pass


cdef bint _end_arm(port *self) noexcept nogil:
    return ring_arm((<link_end *>self).arriving)


cdef void _end_event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    abx_wakeup_heard((<link_end *>self).arriving.event_fd)
    self.flags |= PORT_READY


cdef void _deliver(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil:
    """Give each run of frames for one port to it."""
    cdef const queued_frame *items = (<link_end *>source).held
    cdef port_frame *run[BURST_MAX]
    cdef uint32_t first = 0
    cdef uint32_t end
    cdef port *destination
    while first < count:
        end = first
        while end < count and items[end].generation == items[first].generation:
            run[end - first] = &frames[end]
            end += 1
        destination = source.owner.ports[items[first].to_port]
        if destination == NULL or destination.generation != items[first].generation:  # it has just gone
            port_drop(source, PORT_DROP_NOWHERE, end - first)
        else:
            port_send(destination, run, end - first)
        first = end


cdef port_ops PORT_OPS = port_ops(
    open=NULL, rx_burst=_rx_nothing, rx_release=_release_nothing, tx_burst=_tx_burst, tx_flush=_tx_flush, arm=NULL,
    event=NULL, message=NULL, tick=NULL, close=NULL,
)
cdef port_ops END_OPS = port_ops(
    open=_end_open, rx_burst=_end_rx_burst, rx_release=_end_rx_release, tx_burst=_end_tx_burst,
    tx_flush=_end_tx_flush, arm=_end_arm, event=_end_event, message=NULL, tick=NULL, close=NULL,
)


cdef class Link:
    """The ring of *capacity* frames (a power of two) from one worker to one other, both with *pool*."""

    def __cinit__(self, PacketPool pool not None, capacity=4096):
        self.pool = pool
        self.ring = LockFreeRing(capacity, QUEUED_FRAME_BYTES)

    def drain(self):
        """Release what is in the ring, and return how many frames that were. Neither worker may use it any more."""
        cdef queued_frame item
        drained = 0
        self.ring.hand_over()
        while queue_take(self.ring.consumer, &item, 1):
            pool_release(self.pool.own, self.pool.pool.base + item.offset)
            drained += 1
        return drained


cdef class LinkPort(Port):
    """In the worker that *link* leaves, in place of the port *stands_for*, which is in the worker that it leads to."""

    def __cinit__(self, Link link not None, Port stands_for not None):
        cdef link_port *made = <link_port *>calloc(1, sizeof(link_port))
        if made == NULL:
            raise MemoryError
        self.base = &made.base
        self.link = link
        made.leaving = link.ring.producer
        made.base.ops = &PORT_OPS
        made.base.flags = PORT_UP
        made.base.takes = TAKES_CSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_ECN | TAKES_USO
        made.base.frame_max = stands_for.base.frame_max
        made.generation = stands_for.base.generation


cdef class LinkEnd(Port):
    """Where *link* ends: its frames go to the ports of this worker, by a `LinkDelivery`."""

    def __cinit__(self, Link link not None):
        cdef link_end *made = <link_end *>calloc(1, sizeof(link_end))
        if made == NULL:
            raise MemoryError
        self.base = &made.base
        self.link = link
        made.arriving = link.ring.consumer
        made.base.ops = &END_OPS
        made.base.flags = PORT_POLLED


cdef class LinkDelivery(Receiver):
    """Hands the frames of a `LinkEnd` to the ports that they are for."""

    def __cinit__(self):
        self.base = <receiver *>calloc(1, sizeof(receiver))
        if self.base == NULL:
            raise MemoryError
        self.base.burst = _deliver
