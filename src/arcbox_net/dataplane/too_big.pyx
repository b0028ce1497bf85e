"""Owns what becomes of a frame that is larger than its port sends: ICMP to its sender, within limits.

A switch has no address of its own, so the error comes from whom the packet was for.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.emitter cimport emitter_reset
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.port cimport PORT_NONE, port, port_frame
from arcbox_net.dataplane.port_send cimport port_send
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.dataplane.verdict cimport INBOUND
from arcbox_net.memory.frame cimport BURST_MAX, frame
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_type
from arcbox_net.wire.icmp cimport ICMP_FRAGMENTATION_NEEDED, ICMP_UNREACHABLE, ICMPV6_ERROR_BYTES_MAX
from arcbox_net.wire.ipv4 cimport ipv4_check
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES, IPV6_DESTINATION, ipv6_check
from arcbox_net.wire.tcp cimport TCP_HEADER_BYTES, tcp_header_size
from arcbox_net.wire.udp cimport UDP_HEADER_BYTES
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE, VIRTIO_GSO_UDP_L4, virtio_net_header

cdef enum:
    QUOTABLE_BYTES = ETHERNET_HEADER_BYTES + ICMPV6_ERROR_BYTES_MAX


cdef bint segments_fit(const port *out, const port_frame *f) noexcept nogil:
    """Whether a frame that is larger than the port's is a super-frame whose segments are not."""
    cdef virtio_net_header offload
    cdef uint32_t headers
    offload_read(&f.head, &offload)
    if offload.gso_type == VIRTIO_GSO_NONE:
        return False
    headers = offload.csum_start  # a super-frame's L4 header begins there
    if headers + TCP_HEADER_BYTES > f.head.size:
        return False
    if offload.gso_type == VIRTIO_GSO_UDP_L4:
        headers += UDP_HEADER_BYTES
    else:
        headers += tcp_header_size(f.head.data + headers)
    return headers + offload.gso_size <= out.frame_max


cdef void tell_too_big(switch_state *s, const port_frame *f, uint32_t frame_max) noexcept nogil:
    """Make the error about *f*, if there may be one; `send_told` is due at the end of the burst."""
    cdef uint8_t quotable[QUOTABLE_BYTES]
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    cdef frame offending
    cdef uint32_t size = f.size - ETHERNET_HEADER_BYTES
    if ethernet_type(f.head.data) == ETHERTYPE_IPV4:
        if not ipv4_check(ip, size):
            return
    elif ethernet_type(f.head.data) == ETHERTYPE_IPV6:
        if not ipv6_check(ip, size):
            return
        memcpy(s.answers.gateway6, ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES)
    else:
        return
    memset(&offending, 0, sizeof(frame))
    offending.data = quotable
    offending.l3 = ETHERNET_HEADER_BYTES
    offending.size = _gather(f, quotable)
    icmp_refuse(
        &s.answers, &offending, INBOUND, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED,
        frame_max - ETHERNET_HEADER_BYTES, s.owner.now_ns,
    )


cdef uint32_t _gather(const port_frame *f, uint8_t *to) noexcept nogil:
    """Copy the frame's first bytes, as many as an error quotes; how many they are."""
    cdef uint32_t size = min(f.head.size, <uint32_t>QUOTABLE_BYTES), part
    cdef size_t more
    memcpy(to, f.head.data, size)
    for part in range(f.rest_count):
        more = min(f.rest[part].iov_len, <size_t>(QUOTABLE_BYTES - size))
        memcpy(to + size, f.rest[part].iov_base, more)
        size += <uint32_t>more
    return size


cdef void send_told(switch_state *s, port *source) noexcept nogil:
    """Send the errors of a burst to where it came from."""
    cdef port_frame frames[BURST_MAX]
    cdef port_frame *sent[BURST_MAX]
    cdef uint32_t i, count = min(s.answers_out.count, <uint32_t>BURST_MAX)
    for i in range(count):
        frames[i].head = s.answers_out.frames[i]
        frames[i].rest = NULL
        frames[i].rest_count = 0
        frames[i].from_port = PORT_NONE
        frames[i].size = frames[i].head.size
        sent[i] = &frames[i]
    emitter_reset(&s.answers_out)
    port_send(source, sent, count)
