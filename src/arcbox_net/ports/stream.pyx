"""`StreamPort`: a guest behind a stream socket with QEMU's framing (`-netdev stream`). There are no offloads on it.

What comes is read into the port's own memory, as much at once as there is, and parsed where it lies. What goes is sent
by one call a burst. What the peer does not take waits, up to BACKLOG_BYTES_MAX, and no frame overtakes it; beyond that
frames are dropped. A frame of which a part was sent is always finished.
"""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from arcbox_net.abi.poller cimport POLL_BROKEN, POLL_END, POLL_WRITE
from arcbox_net.abi.socket cimport MSG_DONTWAIT, iovec, msghdr, recv, sendmsg
from arcbox_net.abi.socket_calls cimport ABX_SEND_FLAGS
from arcbox_net.dataplane.port cimport (
    HEAD_BYTES, PORT_DROP_LONG, PORT_READY, Port, port, port_drop, port_frame, port_message,
    port_ops, port_sent,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_FRAME_OFFSET
from arcbox_net.ports.backlog cimport (
    BACKLOG_VECTORS, backlog_close, backlog_open, backlog_put, backlog_size, backlog_take, backlog_vectors,
)
from arcbox_net.ports.frames cimport frame_received, frame_vectors
from arcbox_net.ports.framing cimport (
    FRAMING_FRAME, FRAMING_MORE, FRAMING_WRONG, LENGTH_BYTES, RECEIVE_BYTES, STREAM_BYTES, framing, stream_bytes,
    stream_room, stream_take,
)
from arcbox_net.ports.socket_port cimport (
    RECEIVES_MAX, REPORT_BAD_LENGTH, REPORT_EOF, VECTORS_MAX, socket_port, socket_port_disconnect, socket_port_flows,
    socket_port_freed, socket_port_init, socket_port_lose, socket_port_message, socket_port_put_by,
    socket_port_read_again, socket_port_refused, socket_port_stuck, socket_port_unsent,
)
from arcbox_net.wire.octets cimport store_u32

from arcbox_net.ports.socket_port import check_frame_max

cdef struct stream_port:
    socket_port peer
    stream_bytes received
    bint ending  # the peer hung up: behind what it sent comes the end, and no other event
    iovec rests[BURST_MAX]
    uint8_t heads[BURST_MAX][BUFFER_FRAME_OFFSET + HEAD_BYTES]


cdef uint32_t stream_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef stream_port *s = <stream_port *>self
    cdef uint32_t count
    for _i in range(RECEIVES_MAX):
        count = _parse(s, frames, min(budget, <uint32_t>BURST_MAX))
        if count or not _receive(s):
            return count
    self.flags |= PORT_READY
    return 0


cdef uint32_t _parse(stream_port *s, port_frame *frames, uint32_t budget) noexcept nogil:
    """Hand out the frames that are there. A wrong length ends the connection, behind the frames ahead of it."""
    cdef uint32_t count = 0, length = 0
    cdef uint8_t *bytes = NULL
    cdef framing found = FRAMING_MORE
    while count < budget:
        found = stream_take(&s.received, &bytes, &length)
        if found != FRAMING_FRAME:
            break
        if length > s.peer.base.frame_max:
            port_drop(&s.peer.base, PORT_DROP_LONG, 1)
        else:
            _hand_out(s, &frames[count], count, bytes, length)
            count += 1
    if found == FRAMING_WRONG:
        s.received.begin = s.received.end
        socket_port_lose(&s.peer, REPORT_BAD_LENGTH, length)
    return count


cdef inline void _hand_out(
    stream_port *s, port_frame *f, uint32_t i, uint8_t *bytes, uint32_t length
) noexcept nogil:
    # Ahead of the frame is the end of the one before: its head moves to where a virtio-net header has room.
    cdef uint8_t *head = s.heads[i] + BUFFER_FRAME_OFFSET
    memset(head - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    memcpy(head, bytes, min(length, <uint32_t>HEAD_BYTES))
    frame_received(&s.peer.base, f, head, length)
    if length > HEAD_BYTES:
        f.head.size = HEAD_BYTES
        f.rest = &s.rests[i]
        f.rest_count = 1
        f.rest.iov_base = bytes + HEAD_BYTES
        f.rest.iov_len = length - HEAD_BYTES


cdef bint _receive(stream_port *s) noexcept nogil:
    """Read once; whether something came."""
    cdef ssize_t received
    if s.peer.fd < 0 or s.peer.drained:
        return False
    received = recv(s.peer.fd, stream_room(&s.received), RECEIVE_BYTES, MSG_DONTWAIT)
    s.peer.drained = received < RECEIVE_BYTES and (received < 0 or not s.ending)
    if received == 0:
        socket_port_lose(&s.peer, REPORT_EOF, s.received.end)
    elif received > 0:
        s.received.end += <uint32_t>received
    elif errno != EAGAIN:
        socket_port_refused(&s.peer)
    return received > 0


cdef void stream_rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void stream_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef stream_port *s = <stream_port *>self
    cdef uint32_t i = 0
    while i < count and socket_port_flows(&s.peer):
        i += _send(s, frames + i, count - i)
    socket_port_put_by(&s.peer, frames + i, count - i)


cdef uint32_t _send(stream_port *s, port_frame **frames, uint32_t count) noexcept nogil:
    """Send by one call; how many frames are sent, or begun and their rest put by."""
    cdef iovec vectors[VECTORS_MAX]
    cdef uint8_t lengths[BURST_MAX][LENGTH_BYTES]
    cdef uint32_t gathered = 0, used = 0, done = 0
    cdef ssize_t sent
    while gathered < min(count, <uint32_t>BURST_MAX) and used + 2 + frames[gathered].rest_count <= VECTORS_MAX:
        used += _gather(frames[gathered], lengths[gathered], vectors + used)
        gathered += 1
    sent = _send_vectors(s, vectors, used)
    if sent < 0:
        return 0
    while done < gathered and sent >= <ssize_t>(LENGTH_BYTES + frames[done].size):
        sent -= LENGTH_BYTES + frames[done].size
        port_sent(&s.peer.base, 1, frames[done].size)
        done += 1
    if done < gathered:
        socket_port_stuck(&s.peer)
        if sent:
            backlog_put(&s.peer.waiting, frames[done], <uint32_t>sent)  # nothing waits: there is room for one frame
            port_sent(&s.peer.base, 1, frames[done].size)
            done += 1
    return done


cdef inline uint32_t _gather(const port_frame *f, uint8_t *length, iovec *vectors) noexcept nogil:
    """The frame behind its length; how many vectors that is."""
    store_u32(length, f.size)
    vectors[0].iov_base = length
    vectors[0].iov_len = LENGTH_BYTES
    return 1 + frame_vectors(f, vectors + 1)


cdef inline ssize_t _send_vectors(stream_port *s, iovec *vectors, uint32_t count) noexcept nogil:
    """How many bytes were sent, or -1 with the reason seen to."""
    cdef msghdr message
    cdef ssize_t sent
    memset(&message, 0, sizeof(message))
    message.msg_iov = vectors
    message.msg_iovlen = count
    sent = sendmsg(s.peer.fd, &message, ABX_SEND_FLAGS)
    if sent < 0:
        socket_port_unsent(&s.peer)
    return sent


cdef void stream_tx_flush(port *self) noexcept nogil:
    pass


cdef void stream_event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    cdef stream_port *s = <stream_port *>self
    if events & POLL_WRITE and s.peer.blocked:
        _send_waiting(s)
    if events & (POLL_END | POLL_BROKEN):
        s.ending = True
    socket_port_read_again(&s.peer)


cdef void _send_waiting(stream_port *s) noexcept nogil:
    cdef iovec vectors[BACKLOG_VECTORS]
    cdef uint32_t left = backlog_size(&s.peer.waiting)
    cdef ssize_t sent
    while left:
        sent = _send_vectors(s, vectors, backlog_vectors(&s.peer.waiting, 0, left, vectors))
        if sent < 0:
            return
        backlog_take(&s.peer.waiting, <uint32_t>sent)
        left -= <uint32_t>sent
    socket_port_freed(&s.peer)


cdef int stream_message(port *self, const port_message *message) noexcept nogil:
    cdef stream_port *s = <stream_port *>self
    if s.peer.fd < 0:
        s.received.begin = s.received.end = 0
        s.ending = False
    return socket_port_message(&s.peer, message)


cdef void stream_tick(port *self) noexcept nogil:
    cdef stream_port *s = <stream_port *>self
    if s.peer.again:
        s.peer.again = False
        _send_waiting(s)
        socket_port_read_again(&s.peer)


cdef void stream_close(port *self) noexcept nogil:
    socket_port_disconnect(&(<stream_port *>self).peer)


cdef port_ops OPS
OPS.rx_burst = stream_rx_burst
OPS.rx_release = stream_rx_release
OPS.tx_burst = stream_tx_burst
OPS.tx_flush = stream_tx_flush
OPS.event = stream_event
OPS.message = stream_message
OPS.tick = stream_tick
OPS.close = stream_close


cdef class StreamPort(Port):
    """A port whose peer comes by a message (`PEER_CONNECT`). *frame_max*: of a frame, Ethernet header included.

    Raises ConfigError for a size that no frame has.
    """

    def __cinit__(self, *, uint32_t frame_max):
        cdef stream_port *s
        check_frame_max(frame_max)
        s = <stream_port *>calloc(1, sizeof(stream_port))
        if s == NULL:
            raise MemoryError
        self.base = &s.peer.base
        socket_port_init(&s.peer, &OPS, frame_max)
        s.received.bytes = <uint8_t *>malloc(STREAM_BYTES)
        if s.received.bytes == NULL or not backlog_open(&s.peer.waiting):
            raise MemoryError

    def __dealloc__(self):
        cdef stream_port *s = <stream_port *>self.base
        if s != NULL:
            free(s.received.bytes)
            backlog_close(&s.peer.waiting)
