"""What the rare TCP segments do to their flow's state: those with SYN, FIN or RST, and a way's first ACK.

Theory of operation
    The state is what both ways have shown (`half_flow.tcp`), and decides how long an idle flow lives:

        opening ──both SYNs acknowledged──▶ established ──FIN──▶ half closed ──the other's FIN──▶ closing
           ▲                                                                                        │
           │◀─────────────────────── SYN with a higher sequence number (RFC 9293 3.6.1) ────────────┘
           │◀──SYN── reset ◀── RST within the window, from every other state

    A half flow knows up to where its way has acknowledged the other's bytes, and how far the window goes that it
    offered. A RST or FIN only counts with a sequence number in that range, which nobody off the path knows; and from
    outside only an ACK in that range moves it. Until a way
    has acknowledged anything its half holds what the other way's SYN took: from `ack_next` to `window_end`.
    What does not count is passed on, so that the ends can find out that they disagree (RFC 9293 3.5.1), and refreshes
    nothing. One thing is dropped: a RST outside a window that is known, as its receiver would (RFC 5961 3.2).
    After a RST only what a guest sends refreshes, and no further RST does (RFC 7857 2.2, 8): a forged one inside the
    window shortens the life of an idle connection, but does not cut one that goes on.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from arcbox_net.dataplane.conntrack cimport conntrack, conntrack_rearm
from arcbox_net.dataplane.flow cimport (
    TCP_SEEN_ACK, TCP_SEEN_FIN, TCP_SEEN_RST, TCP_SEEN_SCALE, TCP_SEEN_SYN, half_flow, key_direction,
)
from arcbox_net.dataplane.tcp_state cimport half_acknowledges, tcp_state
from arcbox_net.dataplane.verdict cimport DROP_TCP_STATE, OUTBOUND, VERDICT_FORWARD, Verdict
from arcbox_net.wire.tcp cimport (
    TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, tcp_acknowledgment, tcp_flags, tcp_header_size, tcp_sequence, tcp_window,
)
from arcbox_net.wire.tcp_options cimport tcp_options, tcp_read_options

cdef enum:
    BEYOND_WINDOW = 2  # octets that may come beyond a window: a probe of a closed one, and the FIN


cdef Verdict tcp_track_slow(
    conntrack *c, uint32_t half, const uint8_t *tcp, uint32_t l4_size, uint32_t now_s
) noexcept nogil:
    cdef half_flow *way = &c.halves[half]
    cdef half_flow *other = &c.halves[half ^ 1]
    cdef TcpState before = tcp_state(way.tcp, other.tcp)
    cdef TcpState state = before
    cdef uint8_t flags = tcp_flags(tcp)
    cdef bint ends, acknowledges
    if flags & TCP_RST:
        if state == TCP_RESET:
            return VERDICT_FORWARD
        if not _reset_counts(way, other, tcp):
            return VERDICT_FORWARD if state == TCP_OPENING else DROP_TCP_STATE
        way.tcp |= TCP_SEEN_RST
        # Without these, what follows comes here and not by the fast way.
        way.tcp &= ~<uint8_t>TCP_SEEN_ACK
        other.tcp &= ~<uint8_t>TCP_SEEN_ACK
        way.last_seen_s = now_s
        conntrack_rearm(c, half >> 1)
        return VERDICT_FORWARD
    if flags & (TCP_SYN | TCP_ACK) == TCP_SYN and _reopens(state, other, tcp):
        way.tcp = other.tcp = 0
        state = TCP_OPENING
    if state == TCP_RESET:
        if flags & TCP_SYN == 0 and key_direction(way.key_rest) == OUTBOUND:
            way.last_seen_s = now_s
        return VERDICT_FORWARD
    if flags & TCP_SYN and state != TCP_OPENING:
        return VERDICT_FORWARD
    if flags & TCP_ACK and not way.tcp & TCP_SEEN_ACK and not _first_ack_counts(way, other, tcp):
        return VERDICT_FORWARD
    ends = flags & TCP_FIN and other.tcp & TCP_SEEN_ACK and _in_window(other, _sequence_end(tcp, l4_size) - 1)
    acknowledges = flags & TCP_ACK != 0
    if flags & TCP_ACK and way.tcp & TCP_SEEN_ACK:
        acknowledges = _ack_counts(way, tcp_acknowledgment(tcp))
        if not acknowledges and not ends and key_direction(way.key_rest) != OUTBOUND:
            return VERDICT_FORWARD
    way.last_seen_s = now_s
    if flags & TCP_SYN:
        _note_syn(way, other, tcp, l4_size)
    if acknowledges:
        _note_ack(way, tcp)
    if ends:
        way.tcp |= TCP_SEEN_FIN
    if tcp_state(way.tcp, other.tcp) != before:
        conntrack_rearm(c, half >> 1)
    return VERDICT_FORWARD


cdef inline bint _in_window(const half_flow *receiver, uint32_t sequence) noexcept nogil:
    return sequence - receiver.ack_next <= receiver.window_end - receiver.ack_next


cdef inline bint _acknowledges_syn(const half_flow *way, const half_flow *other, const uint8_t *tcp) noexcept nogil:
    """Whether the segment of a way that has acknowledged nothing yet is for something that the other's SYN took."""
    return (
        other.tcp & TCP_SEEN_SYN != 0
        and tcp_acknowledgment(tcp) - way.ack_next - 1 < way.window_end - way.ack_next
    )


cdef inline bint _first_ack_counts(const half_flow *way, const half_flow *other, const uint8_t *tcp) noexcept nogil:
    """An ACK without a SYN before it is of another connection, whatever its number."""
    return (way.tcp & TCP_SEEN_SYN or tcp_flags(tcp) & TCP_SYN) and _acknowledges_syn(way, other, tcp)


cdef inline bint _ack_counts(const half_flow *way, uint32_t acknowledged) noexcept nogil:
    """Of a way that has acknowledged before. A guest's counts whatever it says, but for what came too late: it cannot
    be forged, and so a window that we got wrong is put right.
    """
    if key_direction(way.key_rest) == OUTBOUND:
        return <int32_t>(acknowledged - way.ack_next) >= 0
    return acknowledged - way.ack_next <= way.window_end - way.ack_next + BEYOND_WINDOW


cdef inline bint _reset_counts(const half_flow *way, const half_flow *other, const uint8_t *tcp) noexcept nogil:
    if way.tcp & TCP_SEEN_SYN:
        return _in_window(other, tcp_sequence(tcp))
    # A refused SYN: the RST has no sequence number of worth, but acknowledges the SYN.
    return tcp_flags(tcp) & TCP_ACK != 0 and _acknowledges_syn(way, other, tcp)


cdef inline bint _reopens(TcpState state, const half_flow *other, const uint8_t *tcp) noexcept nogil:
    """Whether a SYN begins a new connection in place of one that ends or was reset."""
    return state == TCP_RESET or (
        state == TCP_CLOSING and <int32_t>(tcp_sequence(tcp) - other.ack_next) >= 0
    )


cdef inline uint32_t _sequence_end(const uint8_t *tcp, uint32_t l4_size) noexcept nogil:
    """The sequence number after all that the segment takes."""
    cdef uint8_t flags = tcp_flags(tcp)
    cdef uint32_t taken = l4_size - tcp_header_size(tcp)
    return tcp_sequence(tcp) + taken + (flags & TCP_SYN != 0) + (flags & TCP_FIN != 0)


cdef void _note_syn(half_flow *way, half_flow *other, const uint8_t *tcp, uint32_t l4_size) noexcept nogil:
    cdef tcp_options options
    tcp_read_options(tcp, &options)
    way.tcp |= TCP_SEEN_SYN
    way.tcp &= ~<uint8_t>TCP_SEEN_SCALE
    way.window_shift = 0
    if options.has_window_scale:
        way.tcp |= TCP_SEEN_SCALE
        way.window_shift = options.window_scale
    # RFC 7323 2.2: windows are scaled when both have offered it.
    if other.tcp & TCP_SEEN_SYN and not way.tcp & other.tcp & TCP_SEEN_SCALE:
        way.window_shift = other.window_shift = 0
        way.tcp &= ~<uint8_t>TCP_SEEN_SCALE
        other.tcp &= ~<uint8_t>TCP_SEEN_SCALE
    if not other.tcp & TCP_SEEN_ACK:
        other.ack_next = tcp_sequence(tcp)
        other.window_end = _sequence_end(tcp, l4_size)


cdef inline void _note_ack(half_flow *way, const uint8_t *tcp) noexcept nogil:
    cdef uint8_t shift = 0 if tcp_flags(tcp) & TCP_SYN else way.window_shift  # RFC 7323 2.2: a SYN's is not scaled
    way.tcp |= TCP_SEEN_ACK
    half_acknowledges(way, tcp_acknowledgment(tcp), <uint32_t>tcp_window(tcp) << shift)
