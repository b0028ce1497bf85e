"""What a TCP segment does to its flow's state. Contract and rules: tcp_state.pyx."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from arcbox_net.dataplane.conntrack cimport conntrack
from arcbox_net.dataplane.flow cimport (
    TCP_SEEN_ACK, TCP_SEEN_FIN, TCP_SEEN_RST, TCP_SEEN_SYN, half_flow,
)
from arcbox_net.dataplane.packet cimport packet_segment
from arcbox_net.dataplane.verdict cimport VERDICT_FORWARD, Verdict
from arcbox_net.wire.tcp cimport (
    TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, tcp_acknowledgment, tcp_flags, tcp_window,
)

cdef enum TcpState:
    TCP_OPENING  # not both have acknowledged the other's SYN
    TCP_ESTABLISHED
    TCP_HALF_CLOSED  # one has sent a FIN
    TCP_CLOSING  # both have
    TCP_RESET

cdef enum:
    TCP_SEEN_HANDSHAKE = TCP_SEEN_SYN | TCP_SEEN_ACK


cdef Verdict tcp_track_slow(
    conntrack *c, uint32_t half, const uint8_t *tcp, uint32_t l4_size, uint32_t now_s
) noexcept nogil


cdef inline TcpState tcp_state(uint8_t one, uint8_t other) noexcept nogil:
    """From `half_flow.tcp` of both ways."""
    if (one | other) & TCP_SEEN_RST:
        return TCP_RESET
    if one & other & TCP_SEEN_FIN:
        return TCP_CLOSING
    if one & other & TCP_SEEN_HANDSHAKE != TCP_SEEN_HANDSHAKE:
        return TCP_OPENING
    return TCP_HALF_CLOSED if (one | other) & TCP_SEEN_FIN else TCP_ESTABLISHED


cdef inline Verdict flow_track(
    conntrack *c, uint32_t half, uint32_t tcp, const uint8_t *l4, uint32_t l4_size, uint32_t now_s
) noexcept nogil:
    """Note a packet that came the way of *half*, its header checked: VERDICT_FORWARD or DROP_TCP_STATE.

    *tcp* is 0 or 1. There is no branch on it, for traffic mixes them: half flows of other protocols note numbers that
    nobody reads.
    """
    cdef half_flow *way = &c.halves[half]
    cdef const uint8_t *segment = packet_segment(l4, tcp)
    cdef uint32_t acknowledged = tcp_acknowledgment(segment)
    cdef uint32_t plain = (
        <uint32_t>(tcp_flags(segment) & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK) == TCP_ACK)
        & <uint32_t>(way.tcp & TCP_SEEN_ACK != 0)
        & <uint32_t>(acknowledged - way.ack_next <= way.window_end - way.ack_next)
    )
    if tcp & (plain ^ 1):
        return tcp_track_slow(c, half, l4, l4_size, now_s)
    half_acknowledges(way, acknowledged, <uint32_t>tcp_window(segment) << way.window_shift)
    way.last_seen_s = now_s
    return VERDICT_FORWARD


cdef inline void half_acknowledges(half_flow *way, uint32_t acknowledged, uint32_t offered) noexcept nogil:
    """A window once offered is not taken back (RFC 9293 3.8.6)."""
    cdef uint32_t end = acknowledged + offered
    way.ack_next = acknowledged
    way.window_end = end if <int32_t>(end - way.window_end) > 0 else way.window_end
