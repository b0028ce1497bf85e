"""Where the headers are that a virtio-net header speaks of, if it speaks the truth.

A guest writes that header. Who completes a checksum where it says so writes two bytes of the guest's choice at a place
of its choice, and who cuts segments copies what it calls headers; after the switch has looked at the frame. So the
place has to be the checksum field of a TCP or UDP header, found by walking the frame's own headers.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.port cimport HEAD_BYTES, port_frame
from arcbox_net.wire.checksum cimport pseudo_sum
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_type,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_SOURCE, ipv4_check, ipv4_header_size, ipv4_is_fragment,
    ipv4_protocol, ipv4_total_length,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_EXTENSIONS_MAX, IPV6_HEADER_BYTES, IPV6_SOURCE, IPV6_WALK_OK,
    ipv6_check, ipv6_follow, ipv6_next_header, ipv6_total_length,
)
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_CHECKSUM, TCP_HEADER_BYTES, tcp_header_size
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_GSO_UDP_L4, virtio_net_header,
)

cdef struct offload_layout:
    uint32_t l4  # offset of the TCP or UDP header
    uint32_t headers  # bytes of all headers
    uint32_t payload  # bytes behind them, as the IP header says
    uint8_t protocol
    bint ipv6


cdef inline bint layout_find(const port_frame *f, offload_layout *l) noexcept nogil:
    """Find the TCP or UDP header of a frame, all of it within the frame's head, and no fragment."""
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    cdef uint32_t there, total, left = IPV6_EXTENSIONS_MAX, offset, l4_size
    if f.head.size < ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES:
        return False
    there = min(f.head.size, <uint32_t>HEAD_BYTES) - ETHERNET_HEADER_BYTES
    l.ipv6 = ethernet_type(f.head.data) == ETHERTYPE_IPV6
    if l.ipv6:
        if there < IPV6_HEADER_BYTES or not ipv6_check(ip, f.size - ETHERNET_HEADER_BYTES):
            return False
        total = ipv6_total_length(ip)
        there = min(there, total)
        l.protocol = ipv6_next_header(ip)
        offset = IPV6_HEADER_BYTES
        if ipv6_follow(ip, there, &l.protocol, &offset, &left) != IPV6_WALK_OK:
            return False
    else:
        if ethernet_type(f.head.data) != ETHERTYPE_IPV4 or not ipv4_check(ip, f.size - ETHERNET_HEADER_BYTES):
            return False
        if ipv4_is_fragment(ip):
            return False
        total = ipv4_total_length(ip)
        there = min(there, total)
        l.protocol = ipv4_protocol(ip)
        offset = ipv4_header_size(ip)
    l4_size = TCP_HEADER_BYTES if l.protocol == PROTOCOL_TCP else UDP_HEADER_BYTES
    if (l.protocol != PROTOCOL_TCP and l.protocol != PROTOCOL_UDP) or offset > there or l4_size > there - offset:
        return False
    if l.protocol == PROTOCOL_TCP:
        l4_size = tcp_header_size(ip + offset)
        if not TCP_HEADER_BYTES <= l4_size <= there - offset:
            return False
    l.l4 = ETHERNET_HEADER_BYTES + offset
    l.headers = l.l4 + l4_size
    l.payload = total - offset - l4_size
    return True


cdef inline bint layout_check(const offload_layout *l, const virtio_net_header *offload) noexcept nogil:
    """Whether a header with NEEDS_CSUM says of the frame what there is."""
    cdef int kind = offload.gso_type & ~VIRTIO_GSO_ECN
    cdef uint16_t field = TCP_CHECKSUM if l.protocol == PROTOCOL_TCP else UDP_CHECKSUM
    if offload.csum_start != l.l4 or offload.csum_offset != field:
        return False
    if kind == VIRTIO_GSO_NONE:
        return True
    if kind == VIRTIO_GSO_UDP_L4:
        return l.protocol == PROTOCOL_UDP
    return l.protocol == PROTOCOL_TCP and kind == (VIRTIO_GSO_TCPV6 if l.ipv6 else VIRTIO_GSO_TCPV4)


cdef inline uint64_t layout_pseudo_sum(const offload_layout *l, const uint8_t *ip, uint32_t size) noexcept nogil:
    """The sum of the pseudo header for *size* bytes from the L4 header on."""
    if l.ipv6:
        return pseudo_sum(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES, l.protocol, size)
    return pseudo_sum(ip + IPV4_SOURCE, ip + IPV4_DESTINATION, 4, l.protocol, size)
