"""An interface of the host, by a packet socket with PACKET_VNET_HDR: what arrives there comes in, and is sent there.

The kernel's header has ten bytes: a frame's twelve, but for num_buffers. Several sockets share an interface's frames
by PACKET_FANOUT, if whoever opened them has said so.
"""

from libc.errno cimport EAGAIN, ENXIO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from arcbox_net.abi.link_layer cimport sockaddr_ll
from arcbox_net.abi.socket cimport MSG_DONTWAIT, MSG_TRUNC, getsockname, iovec, recvmmsg, sendmmsg, sockaddr, socklen_t
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MAX, PORT_DROP_DOWN, PORT_READY, Port, port, port_drop, port_frame, port_ops, port_sent,
)
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_FRAME_OFFSET
from arcbox_net.ports.frames cimport frame_received, frame_vectors
from arcbox_net.ports.queues cimport (
    queues_init, queues_lost, queues_next, queues_refused, queues_set_ops, queues_stopped,
)

cdef enum:
    KERNEL_HEADER_BYTES = 10  # struct virtio_net_hdr, whose last two bytes of ours are num_buffers
    CACHE_LINE_BYTES = 64
    SLOT_BYTES = 65792  # BUFFER_FRAME_OFFSET and the largest frame, and no multiple of a page

cdef port_ops packet_ops


cdef uint32_t packet_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef packet_port *packet = <packet_port *>self
    cdef uint32_t queue, n = 0
    cdef int i, received = 0
    cdef ssize_t size
    while packet.queues.ready:
        queue = queues_next(&packet.queues)
        packet.queues.turn = queue + 1
        received = recvmmsg(
            packet.queues.fds[queue], packet.incoming, min(budget, <uint32_t>PACKET_BATCH), MSG_DONTWAIT | MSG_TRUNC,
            NULL,
        )
        if received > 0:
            break
        _stopped(packet, queue, errno)
    for i in range(received):
        size = <ssize_t>packet.incoming[i].msg_len - KERNEL_HEADER_BYTES
        if frame_received(self, &frames[n], _slot(packet, i), size):
            n += 1
    if packet.queues.ready:  # whatever was dropped
        self.flags |= PORT_READY
    return n


cdef void packet_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef uint32_t batch, at = 0
    while at < count:
        batch = min(count - at, <uint32_t>PACKET_BATCH)
        _send(<packet_port *>self, frames + at, batch)
        at += batch


queues_set_ops(&packet_ops, packet_rx_burst, packet_tx_burst)


cdef class PacketPort(Port):
    def __cinit__(self, *, uint32_t frame_max=1514, bint uso=True):
        cdef packet_port *packet = <packet_port *>calloc(1, sizeof(packet_port))
        if packet == NULL:
            raise MemoryError
        self.base = &packet.queues.base
        if posix_memalign(<void **>&packet.room, CACHE_LINE_BYTES, PACKET_BATCH * SLOT_BYTES) != 0:
            raise MemoryError
        queues_init(&packet.queues, &packet_ops, frame_max, uso)
        _lay_out(packet)

    def __dealloc__(self):
        if self.base != NULL:
            free((<packet_port *>self.base).room)


cdef void _lay_out(packet_port *packet) noexcept:
    """Say once where each message of a batch has its parts."""
    cdef uint8_t *data
    cdef int i
    for i in range(PACKET_BATCH):
        data = _slot(packet, i)
        memset(data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
        packet.incoming_vectors[i][0].iov_base = data - FRAME_VNET_BYTES
        packet.incoming_vectors[i][0].iov_len = KERNEL_HEADER_BYTES
        packet.incoming_vectors[i][1].iov_base = data
        packet.incoming_vectors[i][1].iov_len = FRAME_BYTES_MAX
        packet.incoming[i].msg_hdr.msg_iov = packet.incoming_vectors[i]
        packet.incoming[i].msg_hdr.msg_iovlen = 2
        packet.outgoing[i].msg_hdr.msg_iov = packet.outgoing_vectors[i]


cdef uint8_t *_slot(packet_port *packet, int i) noexcept nogil:
    return packet.room + <size_t>i * SLOT_BYTES + BUFFER_FRAME_OFFSET


cdef void _stopped(packet_port *packet, uint32_t queue, int error) noexcept nogil:
    """A read failed. An interface that goes away is only told from one that goes down by the socket's own address."""
    cdef sockaddr_ll address
    cdef socklen_t size = sizeof(address)
    queues_stopped(&packet.queues, queue, error)
    if error == EAGAIN or getsockname(packet.queues.fds[queue], <sockaddr *>&address, &size) < 0:
        return
    if address.sll_ifindex < 0:
        queues_lost(&packet.queues, ENXIO)


cdef void _send(packet_port *packet, port_frame **frames, uint32_t count) noexcept nogil:
    """A batch at most. Frames that the kernel refuses are skipped."""
    cdef port *self = &packet.queues.base
    cdef uint32_t i, at = 0, done = 0
    cdef uint64_t total = 0
    cdef iovec *vectors
    cdef int sent
    for i in range(count):
        vectors = packet.outgoing_vectors[i]
        vectors[0].iov_base = frames[i].head.data - FRAME_VNET_BYTES
        vectors[0].iov_len = KERNEL_HEADER_BYTES
        packet.outgoing[i].msg_hdr.msg_iovlen = 1 + frame_vectors(frames[i], vectors + 1)
    while at < count:
        if packet.queues.count == 0:
            port_drop(self, PORT_DROP_DOWN, count - at)
            break
        sent = sendmmsg(packet.queues.fds[0], &packet.outgoing[at], count - at, MSG_DONTWAIT)
        if sent <= 0:
            queues_refused(&packet.queues, errno)
            at += 1
            continue
        for i in range(at, at + <uint32_t>sent):
            total += frames[i].size
        at += <uint32_t>sent
        done += <uint32_t>sent
    port_sent(self, done, total)
