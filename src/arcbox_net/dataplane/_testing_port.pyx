"""A port that tests feed and drain: `put` frames that it is to receive, `taken` frames that it was to send.

It takes messages: UP and DOWN, DIE, WATCH (a descriptor and the poller's events, as two 32-bit numbers) and UNWATCH,
and REPORT (a kind and a value, 32 and 64 bits), which comes back as an event.
"""

from libc.errno cimport EINVAL
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_load_relaxed_u64, abx_store_relaxed_u64
from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ
from arcbox_net.abi.wakeup cimport abx_wakeup_heard
from arcbox_net.dataplane.frame_queue cimport (
    QUEUED_FRAME_BYTES, frame_copy, queue_put, queue_take, queued_frame, queued_frame_show,
)
from arcbox_net.dataplane.port cimport (
    FRAME_PARTS_MAX, HEAD_BYTES, PORT_DEAD, PORT_DROP_FULL, PORT_DROP_POOL, PORT_POLLED, PORT_READY, PORT_UP,
    PORT_WATCHES_MAX, PORTS_MAX, TAKES_CSUM, TAKES_ECN, TAKES_TSO4, TAKES_TSO6, TAKES_USO, Port, port, port_drop,
    port_frame, port_message, port_ops, port_sent,
)
from arcbox_net.dataplane.worker cimport worker_report, worker_unwatch, worker_watch
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport LARGE_FRAME_BYTES, PacketPool, pool_release
from arcbox_net.memory.ring cimport LockFreeRing, ring_arm, ring_wake

UP, DOWN, DIE, WATCH, UNWATCH, REPORT = range(200, 206)
ALL_OFFLOADS = TAKES_CSUM | TAKES_TSO4 | TAKES_TSO6 | TAKES_ECN | TAKES_USO
HEAD_MAX = HEAD_BYTES
WATCHES_MAX = PORT_WATCHES_MAX
ALL_PORTS = PORTS_MAX

cdef enum:
    MESSAGE_UP = 200
    MESSAGE_DOWN
    MESSAGE_DIE
    MESSAGE_WATCH
    MESSAGE_UNWATCH
    MESSAGE_REPORT
    ARRIVALS = 0xFFFF  # the tag of the ring's own watch

cdef struct watch_order:
    int fd
    uint32_t events

cdef struct report_order:
    uint32_t kind
    uint32_t gap
    int64_t value


cdef int _open(port *self) noexcept nogil:
    return worker_watch(self, (<testing_port *>self).arriving.event_fd, POLL_READ | POLL_EDGE, ARRIVALS)


cdef uint32_t _rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef testing_port *p = <testing_port *>self
    cdef uint32_t i
    p.held_count = queue_take(p.arriving, p.held, budget)
    for i in range(p.held_count):
        queued_frame_show(self.owner.buffers, &p.held[i], &frames[i])
        if p.part_bytes and frames[i].size > HEAD_BYTES:
            _cut_up(p, &frames[i], p.parts[i])
    return p.held_count


cdef void _cut_up(testing_port *p, port_frame *f, iovec *parts) noexcept nogil:
    """Say that what follows the head lies in pieces."""
    cdef uint8_t *at = f.head.data + HEAD_BYTES
    cdef uint32_t left = f.size - HEAD_BYTES
    f.head.size = HEAD_BYTES
    f.rest = parts
    while left:
        parts[f.rest_count].iov_base = at
        parts[f.rest_count].iov_len = left if f.rest_count == FRAME_PARTS_MAX - 1 else min(left, p.part_bytes)
        at += parts[f.rest_count].iov_len
        left -= <uint32_t>parts[f.rest_count].iov_len
        f.rest_count += 1


cdef void _rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    cdef testing_port *p = <testing_port *>self
    cdef uint32_t i
    for i in range(p.held_count):
        pool_release(self.owner.buffers, self.owner.buffers.pool.base + p.held[i].offset)
    p.held_count = 0


cdef void _tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef testing_port *p = <testing_port *>self
    cdef uint8_t *copy
    cdef uint32_t i
    for i in range(count):
        copy = frame_copy(self.owner.buffers, frames[i])
        if copy == NULL:
            port_drop(self, PORT_DROP_POOL, 1)
        elif queue_put(p.leaving, self.owner.buffers, copy, frames[i], self.number, 0):
            port_sent(self, 1, frames[i].size)
        else:
            port_drop(self, PORT_DROP_FULL, 1)


cdef void _tx_flush(port *self) noexcept nogil:
    _count(&(<testing_port *>self).flushes)


cdef bint _arm(port *self) noexcept nogil:
    return ring_arm((<testing_port *>self).arriving)


cdef void _event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    if tag == ARRIVALS:
        abx_wakeup_heard((<testing_port *>self).arriving.event_fd)
        self.flags |= PORT_READY
    else:
        _count(&(<testing_port *>self).events)


cdef int _message(port *self, const port_message *message) noexcept nogil:
    cdef const watch_order *watch = <const watch_order *>message.payload
    cdef const report_order *report = <const report_order *>message.payload
    if message.kind == MESSAGE_UP:
        self.flags |= PORT_UP
    elif message.kind == MESSAGE_DOWN:
        self.flags &= ~PORT_UP
    elif message.kind == MESSAGE_DIE:
        self.flags |= PORT_DEAD
    elif message.kind == MESSAGE_WATCH and message.size == sizeof(watch_order):
        return worker_watch(self, watch.fd, watch.events, 0)
    elif message.kind == MESSAGE_UNWATCH and message.size == sizeof(watch_order):
        worker_unwatch(self, watch.fd)
    elif message.kind == MESSAGE_REPORT and message.size == sizeof(report_order):
        worker_report(self, report.kind, report.value)
    else:
        return -EINVAL
    return 0


cdef void _tick(port *self) noexcept nogil:
    _count(&(<testing_port *>self).ticks)


cdef void _close(port *self) noexcept nogil:
    cdef testing_port *p = <testing_port *>self
    while queue_take(p.arriving, p.held, 1):
        pool_release(self.owner.buffers, self.owner.buffers.pool.base + p.held[0].offset)
    _count(&p.closes)


cdef void _count(uint64_t *counter) noexcept nogil:
    abx_store_relaxed_u64(counter, counter[0] + 1)


cdef port_ops OPS = port_ops(
    open=_open, rx_burst=_rx_burst, rx_release=_rx_release, tx_burst=_tx_burst, tx_flush=_tx_flush, arm=_arm,
    event=_event, message=_message, tick=NULL, close=_close,
)
cdef port_ops TICKED_OPS = OPS
TICKED_OPS.tick = _tick


cdef class TestingPort(Port):
    """A port between the worker it is added to, whose pool has to be *pool*, and the test.

    It receives and sends up to *capacity* frames (a power of two) until the other side takes some. With *part_bytes*
    what follows the first HEAD_MAX bytes of a frame is handed out in pieces of that size. *takes* and *frame_max* are
    as in port.pxd. With *ticks* it wants to be ticked.
    """

    __test__ = False  # no case of pytest's, whatever its name

    def __cinit__(
        self, PacketPool pool not None, *, frame_max=1514, takes=0, up=True, capacity=1024, part_bytes=0, ticks=False
    ):
        cdef testing_port *p = <testing_port *>calloc(1, sizeof(testing_port))
        if p == NULL:
            raise MemoryError
        self.base = &p.base
        self.pool = pool
        self.arriving = LockFreeRing(capacity, QUEUED_FRAME_BYTES)
        self.leaving = LockFreeRing(capacity, QUEUED_FRAME_BYTES)
        p.arriving = self.arriving.consumer
        p.leaving = self.leaving.producer
        p.part_bytes = part_bytes
        p.base.ops = &TICKED_OPS if ticks else &OPS
        p.base.flags = PORT_POLLED | (PORT_UP if up else 0)
        p.base.takes = takes
        p.base.frame_max = frame_max

    def put(self, frames, *, vnet=False):
        """Have the port receive *frames*; with *vnet* each begins with its virtio-net header. Return how many fitted.

        AssertionError when the pool has no buffer left.
        """
        cdef const uint8_t[::1] source
        cdef uint8_t head[FRAME_VNET_BYTES]  # a virtio-net header, and no byte of the frame behind it
        cdef iovec rest
        cdef port_frame f
        cdef uint8_t *copy
        cdef uint32_t ahead = FRAME_VNET_BYTES if vnet else 0
        done = 0
        self.arriving.hand_over()
        memset(&f, 0, sizeof(f))
        f.head.data = head + FRAME_VNET_BYTES
        f.rest = &rest
        f.rest_count = 1
        for frame in frames:
            source = frame
            assert ahead < source.shape[0] <= LARGE_FRAME_BYTES + ahead, "a frame has bytes, and fits a buffer"
            memset(head, 0, sizeof(head))
            memcpy(head, &source[0], ahead)
            rest.iov_base = <void *>&source[ahead]
            rest.iov_len = f.size = <uint32_t>source.shape[0] - ahead
            copy = frame_copy(self.pool.own, &f)
            assert copy != NULL, "no buffer left"
            if not queue_put(self.arriving.producer, self.pool.own, copy, &f, 0, 0):
                break
            done += 1
        ring_wake(self.arriving.producer)
        return done

    def taken(self, *, vnet=False):
        """The frames that the port was to send since the last call; with *vnet* each after its virtio-net header."""
        cdef queued_frame item
        cdef const uint8_t *start
        cdef uint32_t ahead = FRAME_VNET_BYTES if vnet else 0
        found = []
        self.leaving.hand_over()
        while queue_take(self.leaving.consumer, &item, 1):
            start = self.pool.pool.base + item.offset
            found.append((<const char *>start - ahead)[: item.size + ahead])
            pool_release(self.pool.own, start)
        return found

    @property
    def waiting(self):
        """How many frames `taken` would return."""
        return len(self.leaving)

    @property
    def seen(self):
        """How often the worker called what has no other result."""
        cdef testing_port *p = <testing_port *>self.base
        return {
            "flushes": abx_load_relaxed_u64(&p.flushes),
            "ticks": abx_load_relaxed_u64(&p.ticks),
            "events": abx_load_relaxed_u64(&p.events),
            "closes": abx_load_relaxed_u64(&p.closes),
        }
