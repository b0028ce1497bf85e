"""Moving bytes one way between two TCP sockets without keeping any of them in user space.

Short exchanges are copied through one buffer of the worker (`recv` + `send`, two calls and no pipe). A
read that fills the buffer turns the way to bulk: `splice` through a pipe until the source runs dry. What
`send` did not take goes into a pipe; where there is none to be had, bytes are peeked at and only discarded
once they were sent. So a blocked destination always ends in unread bytes of the source, and the sender's
window closes.

Both sockets are watched edge-triggered. `readable` and `writable` are therefore kept until a call says
otherwise: EAGAIN, or a short read of a stream that has neither ended nor an urgent mark.

The last bytes of a stream and its FIN leave in one packet: what is read from a source that has ended is sent with
MSG_MORE, and the next read, of 0, brings the FIN. Whatever else it brings lets the bytes go at once (`pump_uncork`).
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc

from arcbox_net.abi.files cimport write
from arcbox_net.abi.socket cimport (
    IPPROTO_TCP, MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, SHUT_WR, TCP_NODELAY, recv, send,
    setsockopt, shutdown,
)
from arcbox_net.abi.splice cimport SPLICE_F_MOVE, SPLICE_F_NONBLOCK, splice
from arcbox_net.relay.flow cimport COPY_BYTES, relay_worker, tcp_side, tcp_way
from arcbox_net.relay.pipes cimport pipe_acquire, pipe_release, pipe_reserve

cdef enum:
    PEEK_BYTES = 524288  # each discard wakes the sender: many bytes at a time
    TURN_BYTES_MAX = 2097152  # of one way in one turn: others wait at most this long

cdef enum pump_result:
    PUMP_WAIT  # until the next event
    PUMP_MORE  # the budget is used up
    PUMP_FAILED  # a socket is gone


cdef inline int pump(relay_worker *w, tcp_way *way, tcp_side *source, tcp_side *sink, bint last) noexcept nogil:
    """Move what can be moved in one turn; FIN follows the last byte. *last*: nothing comes the other way any more."""
    cdef int result = pump_turn(w, way, source, sink, last)
    if way.corked and not way.fin_sent:
        pump_uncork(way, sink)
    return result


cdef inline int pump_turn(
    relay_worker *w, tcp_way *way, tcp_side *source, tcp_side *sink, bint last
) noexcept nogil:
    cdef int failed
    cdef uint64_t moved_max = way.moved + TURN_BYTES_MAX
    while way.moved < moved_max:
        if way.held:
            if not sink.writable:
                return PUMP_WAIT
            failed = pump_drain(way, sink)
        elif way.eof:
            return pump_finish(w, way, sink, last)
        elif not source.readable:
            pump_rest(w, way)
            return PUMP_WAIT
        elif not sink.writable:
            return PUMP_WAIT
        elif way.bulk:
            failed = pump_fill(w, way, source)
        elif way.pipe != NULL or pipe_reserve(w):
            failed = pump_copy(w, way, source, sink)
        else:
            failed = pump_peek(w, way, source, sink)
        if failed:
            return PUMP_FAILED
    return PUMP_MORE


cdef inline int pump_copy(relay_worker *w, tcp_way *way, tcp_side *source, tcp_side *sink) noexcept nogil:
    """One read and one write; what the sink does not take goes into a pipe, which is empty here."""
    cdef ssize_t got = recv(source.fd, w.copy, COPY_BYTES, MSG_DONTWAIT)
    cdef ssize_t sent
    cdef int flags = MSG_DONTWAIT | MSG_NOSIGNAL
    if got <= 0:
        return pump_ended(way, source, got)
    if got == COPY_BYTES:
        way.bulk = 1
    elif not source.ended and not source.urgent:
        source.readable = 0
    elif source.ended:
        flags |= MSG_MORE
    sent = send(sink.fd, w.copy, <size_t>got, flags)
    if sent < 0:
        if errno != EAGAIN and errno != EINTR:
            return -1
        sent = 0
    way.corked = flags & MSG_MORE != 0 and sent > 0
    way.moved += <uint64_t>sent
    if sent < got:
        sink.writable = 0
        if way.pipe == NULL:
            way.pipe = pipe_acquire(w)  # reserved by the caller
        if write(way.pipe.write_fd, &w.copy[sent], <size_t>(got - sent)) != got - sent:
            return -1
        way.held = <uint32_t>(got - sent)
    return 0


cdef inline int pump_fill(relay_worker *w, tcp_way *way, tcp_side *source) noexcept nogil:
    """Source to pipe, which is empty here: EAGAIN never means that it is full."""
    cdef ssize_t got
    if way.pipe == NULL:
        way.pipe = pipe_acquire(w)
        if way.pipe == NULL:
            way.bulk = 0
            return 0
    got = splice(source.fd, NULL, way.pipe.write_fd, NULL, way.pipe.size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
    if got > 0:
        way.held = <uint32_t>got
        return 0
    # At an urgent mark splice says EAGAIN for ever, or 0 once FIN is in: only recv can tell what it means.
    way.bulk = 0
    return 0 if got == 0 or errno == EAGAIN or errno == EINTR else -1


cdef inline int pump_drain(tcp_way *way, tcp_side *sink) noexcept nogil:
    """Pipe to sink."""
    cdef ssize_t sent = splice(
        way.pipe.read_fd, NULL, sink.fd, NULL, way.held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK
    )
    if sent > 0:
        way.held -= <uint32_t>sent
        way.moved += <uint64_t>sent
        return 0
    if sent < 0 and errno == EAGAIN:
        sink.writable = 0
        return 0
    return 0 if sent < 0 and errno == EINTR else -1


cdef inline int pump_peek(relay_worker *w, tcp_way *way, tcp_side *source, tcp_side *sink) noexcept nogil:
    """Without a pipe: look, send, and discard exactly what was sent."""
    cdef ssize_t got, sent
    if w.peek == NULL:
        w.peek = <uint8_t *>malloc(PEEK_BYTES)
        if w.peek == NULL:
            return -1
    got = recv(source.fd, w.peek, PEEK_BYTES, MSG_DONTWAIT | MSG_PEEK)
    if got <= 0:
        return pump_ended(way, source, got)
    sent = send(sink.fd, w.peek, <size_t>got, MSG_DONTWAIT | MSG_NOSIGNAL)
    if sent < 0:
        if errno == EAGAIN:
            sink.writable = 0
        return 0 if errno == EAGAIN or errno == EINTR else -1
    way.moved += <uint64_t>sent
    if sent < got:
        sink.writable = 0
    return 0 if recv(source.fd, NULL, <size_t>sent, MSG_DONTWAIT | MSG_TRUNC) == sent else -1


cdef inline int pump_ended(tcp_way *way, tcp_side *source, ssize_t got) noexcept nogil:
    """A read gave nothing: the end of the stream, nothing yet, or an error."""
    if got == 0:
        way.eof = 1
        return 0
    if errno == EAGAIN:
        source.readable = 0
        return 0
    return 0 if errno == EINTR else -1


cdef inline void pump_uncork(tcp_way *way, tcp_side *sink) noexcept nogil:
    """Let the tail go that waits for a FIN which has not come: setting this option sends what is held."""
    cdef int on = 1
    way.corked = 0
    setsockopt(sink.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))


cdef inline int pump_finish(relay_worker *w, tcp_way *way, tcp_side *sink, bint last) noexcept nogil:
    pump_rest(w, way)
    if not way.fin_sent:
        way.fin_sent = 1
        # The last of both FINs comes with the close that follows, for both streams have been read to their ends.
        if not last and shutdown(sink.fd, SHUT_WR) < 0:
            return PUMP_FAILED  # ENOTCONN: the sink is gone
    return PUMP_WAIT


cdef inline void pump_rest(relay_worker *w, tcp_way *way) noexcept nogil:
    """The way has nothing to move: its empty pipe serves another."""
    if way.pipe != NULL:
        pipe_release(w, way.pipe, True)
        way.pipe = NULL
