"""A TAP whose other end is the kernel's network stack: frames with their virtio-net headers, read and written.

What is read in a turn lies frame behind frame in one room of the port's own, which the next turn uses again, so that
it stays in the processor's cache: many small frames, or a few of 64 KB. Frames are written from where they lie.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from posix.stdlib cimport posix_memalign

from arcbox_net.abi.files cimport read, writev
from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MAX, PORT_DROP_DOWN, PORT_READY, Port, port, port_drop, port_frame, port_ops, port_sent,
)
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_FRAME_OFFSET
from arcbox_net.ports.frames cimport FRAME_VECTORS_MAX, frame_received, frame_vectors
from arcbox_net.ports.queues cimport (
    queues_init, queues_next, queues_refused, queues_set_ops, queues_stopped,
)

cdef enum:
    READ_BYTES_MAX = FRAME_VNET_BYTES + FRAME_BYTES_MAX + 1  # one more, to see that a frame was cut off
    ROOM_BYTES_HOT = 256 * 1024  # no frame is read behind these: half of a core's second-level cache, or less
    ROOM_BYTES = ROOM_BYTES_HOT + BUFFER_FRAME_OFFSET + READ_BYTES_MAX
    CACHE_LINE_BYTES = 64

cdef port_ops tap_ops


cdef uint32_t tap_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef tap_port *tap = <tap_port *>self
    cdef uint32_t queue, n = 0, used = 0
    cdef ssize_t size
    cdef uint8_t *data
    for _i in range(budget):
        if tap.queues.ready == 0 or used > ROOM_BYTES_HOT:
            break
        queue = queues_next(&tap.queues)
        data = tap.room + used + BUFFER_FRAME_OFFSET
        size = read(tap.queues.fds[queue], data - FRAME_VNET_BYTES, READ_BYTES_MAX)
        if size < 0:
            queues_stopped(&tap.queues, queue, errno)
        elif frame_received(self, &frames[n], data, size - FRAME_VNET_BYTES):
            used += BUFFER_FRAME_OFFSET + (frames[n].size + CACHE_LINE_BYTES - 1) // CACHE_LINE_BYTES * CACHE_LINE_BYTES
            n += 1
    tap.queues.turn += 1
    if tap.queues.ready:  # whatever was dropped
        self.flags |= PORT_READY
    return n


cdef void tap_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef tap_port *tap = <tap_port *>self
    cdef iovec vectors[FRAME_VECTORS_MAX]
    cdef uint32_t i, parts, sent = 0
    cdef uint64_t total = 0
    for i in range(count):
        if tap.queues.count == 0:
            port_drop(self, PORT_DROP_DOWN, count - i)
            break
        parts = frame_vectors(frames[i], vectors)
        vectors[0].iov_base = frames[i].head.data - FRAME_VNET_BYTES
        vectors[0].iov_len += FRAME_VNET_BYTES
        # The kernel hands a flow's frames to the queue that the flow's last frame was written to.
        if writev(tap.queues.fds[frames[i].from_port % tap.queues.count], vectors, <int>parts) < 0:
            queues_refused(&tap.queues, errno)
            continue
        sent += 1
        total += frames[i].size
    port_sent(self, sent, total)


queues_set_ops(&tap_ops, tap_rx_burst, tap_tx_burst)


cdef class TapPort(Port):
    """*uso*: whether the kernel takes UDP super-frames (from Linux 6.2 on). Without *offloads* it is given none, nor
    checksums to complete."""

    def __cinit__(self, *, uint32_t frame_max=1514, bint uso=True, bint offloads=True):
        cdef tap_port *tap = <tap_port *>calloc(1, sizeof(tap_port))
        if tap == NULL:
            raise MemoryError
        self.base = &tap.queues.base
        if posix_memalign(<void **>&tap.room, CACHE_LINE_BYTES, ROOM_BYTES) != 0:
            raise MemoryError
        queues_init(&tap.queues, &tap_ops, frame_max, uso)
        if not offloads:
            self.base.takes = 0

    def __dealloc__(self):
        if self.base != NULL:
            free((<tap_port *>self.base).room)
