"""`DgramPort`: a guest behind a datagram socket, a frame in each (`-netdev dgram`, vfkit, krunkit). No offloads.

The socket is connected: who the peer is was learned by control. Many frames go and come in one call. What the peer's
queue does not take waits, up to BACKLOG_BYTES_MAX, and no frame overtakes it; beyond that frames are dropped.
"""

from libc.errno cimport EAGAIN, EMSGSIZE, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from arcbox_net.abi.poller cimport POLL_WRITE
from arcbox_net.abi.socket cimport MSG_TRUNC, iovec
from arcbox_net.abi.socket_calls cimport abx_datagram, abx_receive_datagrams, abx_send_datagrams
from arcbox_net.dataplane.port cimport (
    PORT_DROP_KERNEL, PORT_DROP_LONG, PORT_READY, Port, port, port_drop, port_frame, port_message, port_ops,
    port_sent,
)
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_FRAME_OFFSET
from arcbox_net.ports.backlog cimport (
    BACKLOG_VECTORS, backlog, backlog_close, backlog_length, backlog_open, backlog_size, backlog_take, backlog_vectors,
)
from arcbox_net.ports.frames cimport frame_received, frame_vectors
from arcbox_net.ports.framing cimport LENGTH_BYTES
from arcbox_net.ports.socket_port cimport (
    RECEIVES_MAX, VECTORS_MAX, socket_port, socket_port_disconnect, socket_port_flows, socket_port_freed,
    socket_port_init, socket_port_message, socket_port_put_by, socket_port_read_again, socket_port_refused,
    socket_port_unsent,
)

from arcbox_net.ports.socket_port import check_frame_max

cdef enum:
    DATAGRAMS_MAX = 32  # in one call

cdef struct dgram_port:
    socket_port peer
    uint8_t *bytes  # DATAGRAMS_MAX slots
    uint32_t slot_bytes  # BUFFER_FRAME_OFFSET, and as much as the largest frame
    iovec slots[DATAGRAMS_MAX]
    abx_datagram messages[DATAGRAMS_MAX]


cdef uint32_t dgram_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef dgram_port *d = <dgram_port *>self
    cdef uint32_t count = 0
    cdef int received
    for _i in range(RECEIVES_MAX):
        received = _receive(d, min(budget, <uint32_t>DATAGRAMS_MAX))
        count = _hand_out(d, frames, received)
        if count or received == 0:
            return count
    self.flags |= PORT_READY
    return 0


cdef int _receive(dgram_port *d, uint32_t budget) noexcept nogil:
    cdef int received
    if d.peer.fd < 0 or d.peer.drained:
        return 0
    received = abx_receive_datagrams(d.peer.fd, d.messages, budget)
    d.peer.drained = received < <int>budget
    if received < 0 and errno != EAGAIN:
        socket_port_refused(&d.peer)
    return max(received, 0)


cdef uint32_t _hand_out(dgram_port *d, port_frame *frames, int received) noexcept nogil:
    cdef uint32_t count = 0
    cdef uint8_t *bytes
    cdef int i
    for i in range(received):
        bytes = <uint8_t *>d.slots[i].iov_base
        memset(bytes - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
        if d.messages[i].msg_hdr.msg_flags & MSG_TRUNC:
            port_drop(&d.peer.base, PORT_DROP_LONG, 1)
        elif frame_received(&d.peer.base, &frames[count], bytes, d.messages[i].msg_len):
            count += 1
    return count


cdef void dgram_rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void dgram_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef dgram_port *d = <dgram_port *>self
    cdef uint32_t i = 0
    while i < count and socket_port_flows(&d.peer):
        i += _send(d, frames + i, count - i)
    socket_port_put_by(&d.peer, frames + i, count - i)


cdef uint32_t _send(dgram_port *d, port_frame **frames, uint32_t count) noexcept nogil:
    """Send by one call; how many frames are done with."""
    cdef abx_datagram messages[DATAGRAMS_MAX]
    cdef iovec vectors[VECTORS_MAX]
    cdef uint32_t gathered = 0, used = 0, i, done
    cdef const port_frame *f
    while gathered < min(count, <uint32_t>DATAGRAMS_MAX):
        f = frames[gathered]
        if used + 1 + f.rest_count > VECTORS_MAX:
            break
        _address(&messages[gathered], vectors + used, 1 + f.rest_count)
        used += frame_vectors(f, vectors + used)
        gathered += 1
    done = _send_messages(d, messages, gathered)
    for i in range(done):
        if messages[i].msg_len:
            port_sent(&d.peer.base, 1, messages[i].msg_len)
    return done


cdef inline void _address(abx_datagram *message, iovec *vectors, int count) noexcept nogil:
    memset(message, 0, sizeof(abx_datagram))
    message.msg_hdr.msg_iov = vectors
    message.msg_hdr.msg_iovlen = count


cdef uint32_t _send_messages(dgram_port *d, abx_datagram *messages, uint32_t count) noexcept nogil:
    """How many are done with: sent, or refused for their size. 0: the others can only wait."""
    cdef int sent = abx_send_datagrams(d.peer.fd, messages, count)
    if sent >= 0:
        return <uint32_t>sent
    if errno == EMSGSIZE:
        port_drop(&d.peer.base, PORT_DROP_KERNEL, 1)
        return 1
    socket_port_unsent(&d.peer)
    return 0


cdef void dgram_tx_flush(port *self) noexcept nogil:
    pass


cdef void dgram_event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    cdef dgram_port *d = <dgram_port *>self
    if events & POLL_WRITE and d.peer.blocked:
        _send_waiting(d)
    socket_port_read_again(&d.peer)


cdef void _send_waiting(dgram_port *d) noexcept nogil:
    cdef abx_datagram messages[DATAGRAMS_MAX]
    cdef iovec vectors[DATAGRAMS_MAX * BACKLOG_VECTORS]
    cdef uint32_t done
    while backlog_size(&d.peer.waiting):
        done = _send_messages(d, messages, _gather_waiting(&d.peer.waiting, messages, vectors))
        if done == 0:
            return
        for _i in range(done):
            backlog_take(&d.peer.waiting, LENGTH_BYTES + backlog_length(&d.peer.waiting, 0))
    socket_port_freed(&d.peer)


cdef uint32_t _gather_waiting(const backlog *waiting, abx_datagram *messages, iovec *vectors) noexcept nogil:
    cdef uint32_t gathered = 0, offset = 0, length
    while gathered < DATAGRAMS_MAX and offset < backlog_size(waiting):
        length = backlog_length(waiting, offset)
        _address(&messages[gathered], vectors, backlog_vectors(waiting, offset + LENGTH_BYTES, length, vectors))
        vectors += BACKLOG_VECTORS
        offset += LENGTH_BYTES + length
        gathered += 1
    return gathered


cdef int dgram_message(port *self, const port_message *message) noexcept nogil:
    return socket_port_message(<socket_port *>self, message)


cdef void dgram_tick(port *self) noexcept nogil:
    cdef dgram_port *d = <dgram_port *>self
    if d.peer.again:
        d.peer.again = False
        _send_waiting(d)
        socket_port_read_again(&d.peer)


cdef void dgram_close(port *self) noexcept nogil:
    socket_port_disconnect(<socket_port *>self)


cdef port_ops OPS
OPS.rx_burst = dgram_rx_burst
OPS.rx_release = dgram_rx_release
OPS.tx_burst = dgram_tx_burst
OPS.tx_flush = dgram_tx_flush
OPS.event = dgram_event
OPS.message = dgram_message
OPS.tick = dgram_tick
OPS.close = dgram_close


cdef class DgramPort(Port):
    """A port whose peer comes by a message (`PEER_CONNECT`). *frame_max*: of a frame, Ethernet header included.

    Raises ConfigError for a size that no frame has.
    """

    def __cinit__(self, *, uint32_t frame_max):
        cdef dgram_port *d
        cdef int i
        check_frame_max(frame_max)
        d = <dgram_port *>calloc(1, sizeof(dgram_port))
        if d == NULL:
            raise MemoryError
        self.base = &d.peer.base
        socket_port_init(&d.peer, &OPS, frame_max)
        d.slot_bytes = BUFFER_FRAME_OFFSET + frame_max
        d.bytes = <uint8_t *>malloc(DATAGRAMS_MAX * d.slot_bytes)
        if d.bytes == NULL or not backlog_open(&d.peer.waiting):
            raise MemoryError
        for i in range(DATAGRAMS_MAX):
            d.slots[i].iov_base = d.bytes + i * d.slot_bytes + BUFFER_FRAME_OFFSET
            d.slots[i].iov_len = frame_max
            _address(&d.messages[i], &d.slots[i], 1)

    def __dealloc__(self):
        cdef dgram_port *d = <dgram_port *>self.base
        if d != NULL:
            free(d.bytes)
            backlog_close(&d.peer.waiting)
