"""Writes the super-frames of a burst: headers of their own, and the payload of their segments where it is."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.gro_search cimport gro_l4, gro_search, gro_segment
from arcbox_net.dataplane.gro cimport GRO_HEADERS_OFFSET, gro_burst
from arcbox_net.dataplane.offload_layout cimport layout_pseudo_sum, offload_layout
from arcbox_net.dataplane.parts cimport parts_begin, parts_cursor, parts_take
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.wire.checksum cimport checksum_fold
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.ipv4 cimport IPV4_TOTAL_LENGTH, ipv4_set_checksum
from arcbox_net.wire.ipv6 cimport IPV6_HEADER_BYTES, IPV6_PAYLOAD_LENGTH
from arcbox_net.wire.octets cimport store_u16, store_u16_be
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_CHECKSUM, TCP_FLAGS, tcp_flags
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_CHECKSUM, UDP_LENGTH
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM, virtio_net_header,
)


cdef void gro_write(gro_burst *burst, gro_search *search) noexcept nogil:
    """Put super-frames in the places of the first frames of stretches."""
    cdef uint32_t i, first = 0
    for i in range(burst.count):
        while search.frames[first] != burst.frames[i]:
            first += 1
        if search.segments[first].last != first:
            burst.frames[i] = _write_super(burst, search, first)


cdef port_frame *_write_super(gro_burst *burst, gro_search *search, uint32_t first) noexcept nogil:
    cdef port_frame *f = &burst.joined[burst.joined_count]
    cdef const offload_layout *layout = &search.segments[first].layout
    cdef uint8_t *headers = burst.headers[burst.joined_count] + GRO_HEADERS_OFFSET
    cdef uint8_t *ip = headers + ETHERNET_HEADER_BYTES
    cdef uint8_t *l4 = headers + layout.l4
    cdef uint32_t last = search.segments[first].last
    cdef uint32_t size
    memcpy(headers, search.frames[first].head.data, layout.headers)
    f.head.data = headers
    f.head.size = layout.headers
    f.head.headroom = 0
    f.head.l3 = ETHERNET_HEADER_BYTES
    f.head.flags = FRAME_VNET
    f.from_port = search.frames[first].from_port
    _collect(burst, search, first, f)
    size = f.size - ETHERNET_HEADER_BYTES
    if layout.ipv6:
        store_u16(ip + IPV6_PAYLOAD_LENGTH, size - IPV6_HEADER_BYTES)
    else:
        store_u16(ip + IPV4_TOTAL_LENGTH, size)
        ipv4_set_checksum(ip)
    size = f.size - layout.l4
    if layout.protocol == PROTOCOL_TCP:
        l4[TCP_FLAGS] |= tcp_flags(gro_l4(search, last))
    else:
        store_u16(l4 + UDP_LENGTH, size)
    store_u16_be(l4 + _checksum_at(layout), checksum_fold(layout_pseudo_sum(layout, ip, size)))
    _write_offload(headers, &search.segments[first])
    burst.joined_count += 1
    return f


cdef void _collect(gro_burst *burst, gro_search *search, uint32_t first, port_frame *f) noexcept nogil:
    """The payload of all segments of a stretch, for which there is room."""
    cdef const port_frame *segment
    cdef parts_cursor c
    cdef uint32_t i = first, n = 0
    f.rest = &burst.vectors[burst.vector_count]
    f.size = search.segments[first].layout.headers
    while True:
        segment = search.frames[i]
        parts_begin(&c, segment, search.segments[i].layout.headers)
        n += parts_take(&c, search.segments[i].layout.payload, f.rest + n, 1 + <uint32_t>segment.rest_count)
        f.size += search.segments[i].layout.payload
        if i == search.segments[first].last:
            break
        i = search.segments[i].next
    f.rest_count = <uint16_t>n
    burst.vector_count += n


cdef void _write_offload(uint8_t *headers, const gro_segment *first) noexcept nogil:
    cdef virtio_net_header offload
    memset(&offload, 0, sizeof(offload))
    offload.flags = VIRTIO_NEEDS_CSUM
    if first.layout.protocol == PROTOCOL_UDP:
        offload.gso_type = VIRTIO_GSO_UDP_L4
    else:
        offload.gso_type = VIRTIO_GSO_TCPV6 if first.layout.ipv6 else VIRTIO_GSO_TCPV4
    offload.gso_size = <uint16_t>first.layout.payload
    offload.header_length = <uint16_t>first.layout.headers
    offload.csum_start = <uint16_t>first.layout.l4
    offload.csum_offset = _checksum_at(&first.layout)
    memcpy(headers - FRAME_VNET_BYTES, &offload, sizeof(offload))


cdef inline uint16_t _checksum_at(const offload_layout *layout) noexcept nogil:
    """In the L4 header."""
    return TCP_CHECKSUM if layout.protocol == PROTOCOL_TCP else UDP_CHECKSUM
