"""Cuts super-frames: each segment gets headers of its own, and its payload stays where it is.

What changes from one segment to the next (RFC 9293, and what Linux' tcp_gso_segment and __udp_gso_segment do):
    IPv4     length, identification + 1, checksum        IPv6  length
    TCP      sequence number; CWR only in the first (RFC 3168 6.1.2), FIN and PSH only in the last; checksum
    UDP      length, checksum
The sum over all that does not change is made once, in `base`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.offload_layout cimport layout_pseudo_sum, offload_layout
from arcbox_net.dataplane.parts cimport parts_begin, parts_cursor, parts_sum, parts_take
from arcbox_net.dataplane.port cimport (
    FRAME_PARTS_MAX, HEAD_BYTES, PORT_DROP_OFFLOAD, TAKES_CSUM, port, port_drop, port_frame,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.ipv4 cimport IPV4_CHECKSUM, IPV4_IDENTIFICATION, IPV4_TOTAL_LENGTH, ipv4_sum
from arcbox_net.wire.ipv6 cimport IPV6_HEADER_BYTES, IPV6_PAYLOAD_LENGTH
from arcbox_net.wire.octets cimport load_u16, load_u16_be, load_u32_be, order_u16, store_u16, store_u16_be, store_u32
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_CHECKSUM, TCP_CWR, TCP_FIN, TCP_FLAGS, TCP_PSH, TCP_RST, TCP_SEQUENCE, TCP_SYN,
    tcp_flags, tcp_sequence,
)
from arcbox_net.wire.udp cimport UDP_CHECKSUM, UDP_LENGTH
from arcbox_net.wire.virtio_net cimport VIRTIO_NEEDS_CSUM, virtio_net_header

cdef enum:
    HEADERS_OFFSET = 16  # in a segment's place: its virtio-net header ends there
    HEADERS_STRIDE = HEADERS_OFFSET + HEAD_BYTES
    VECTORS_MAX = 1 + FRAME_PARTS_MAX + BURST_MAX  # each segment ends one, or the part does

cdef struct gso_batch:
    const offload_layout *layout
    parts_cursor payload
    uint64_t ipv4  # the sum of the IPv4 header, less what changes
    uint64_t pseudo  # the sum of the pseudo header, without a length
    uint64_t base  # that and the sum of the L4 header, less what changes
    uint32_t sequence
    uint16_t identification
    uint16_t from_port
    uint8_t flags
    bint finish  # the port does not take NEEDS_CSUM
    uint32_t count
    uint32_t vector_count
    port_frame frames[BURST_MAX]
    port_frame *pointers[BURST_MAX]
    iovec vectors[VECTORS_MAX]
    uint8_t template[HEADERS_STRIDE]
    uint8_t headers[BURST_MAX][HEADERS_STRIDE]


cdef void gso_send(
    port *out, const port_frame *f, const virtio_net_header *offload, const offload_layout *layout
) noexcept nogil:
    """Send the segments of *f*, of which `layout_check` says that *offload* is right."""
    cdef gso_batch batch
    cdef uint32_t left = layout.payload, size
    batch.finish = not out.takes & TAKES_CSUM
    if left > SEGMENTS_MAX * <uint32_t>offload.gso_size or not _begin(&batch, f, offload, layout):
        port_drop(out, PORT_DROP_OFFLOAD, 1)
        return
    while True:
        size = min(left, <uint32_t>offload.gso_size)
        left -= size
        if not _cut(&batch, size, left == 0):
            port_drop(out, PORT_DROP_OFFLOAD, 1)
            return
        if batch.count == BURST_MAX or left == 0:
            out.ops.tx_burst(out, batch.pointers, batch.count)
            batch.count = 0
            batch.vector_count = 0
        if left == 0:
            return


cdef bint _begin(
    gso_batch *b, const port_frame *f, const virtio_net_header *offload, const offload_layout *layout
) noexcept nogil:
    """Copy the headers, and take out of the copy what changes."""
    cdef uint8_t *headers = b.template + HEADERS_OFFSET
    cdef uint8_t *ip = headers + ETHERNET_HEADER_BYTES
    cdef uint8_t *l4 = headers + layout.l4
    cdef virtio_net_header partial
    memcpy(headers, f.head.data, layout.headers)
    memset(&partial, 0, sizeof(partial))
    if not b.finish:
        partial.flags = VIRTIO_NEEDS_CSUM
        partial.csum_start = offload.csum_start
        partial.csum_offset = offload.csum_offset
    memcpy(headers - FRAME_VNET_BYTES, &partial, FRAME_VNET_BYTES)
    b.layout = layout
    b.from_port = f.from_port
    b.count = 0
    b.vector_count = 0
    if not layout.ipv6:
        b.identification = load_u16(ip + IPV4_IDENTIFICATION)
        store_u16(ip + IPV4_TOTAL_LENGTH, 0)
        store_u16(ip + IPV4_IDENTIFICATION, 0)
        store_u16(ip + IPV4_CHECKSUM, 0)
        b.ipv4 = ipv4_sum(ip)
    store_u16(l4 + offload.csum_offset, 0)
    if layout.protocol == PROTOCOL_TCP:
        b.flags = tcp_flags(l4)
        if b.flags & (TCP_SYN | TCP_RST) and layout.payload > offload.gso_size:
            return False
        b.sequence = tcp_sequence(l4)
        l4[TCP_FLAGS] = 0
        store_u32(l4 + TCP_SEQUENCE, 0)
    else:
        store_u16(l4 + UDP_LENGTH, 0)
    b.pseudo = layout_pseudo_sum(layout, ip, 0)  # each segment has a length of its own
    b.base = checksum_add(b.pseudo, l4, layout.headers - layout.l4)
    parts_begin(&b.payload, f, layout.headers)
    return True


cdef bint _cut(gso_batch *b, uint32_t size, bint last) noexcept nogil:
    """Add the next segment, with *size* bytes of payload, to the batch, which has a place for it."""
    cdef const offload_layout *layout = b.layout
    cdef port_frame *f = &b.frames[b.count]
    cdef uint8_t *headers = b.headers[b.count] + HEADERS_OFFSET
    cdef uint8_t *l4 = headers + layout.l4
    cdef uint32_t l4_size = layout.headers - layout.l4 + size
    cdef uint64_t total = b.base + order_u16(<uint16_t>l4_size)
    memcpy(b.headers[b.count], b.template, HEADERS_OFFSET + layout.headers)
    f.rest = &b.vectors[b.vector_count]
    f.rest_count = <uint16_t>parts_take(&b.payload, size, f.rest, FRAME_PARTS_MAX)
    if size and f.rest_count == 0:
        return False
    f.head.data = headers
    f.head.size = layout.headers
    f.head.headroom = 0
    f.head.l3 = ETHERNET_HEADER_BYTES
    f.head.flags = FRAME_VNET
    f.from_port = b.from_port
    f.size = layout.headers + size
    _write_length(b, headers + ETHERNET_HEADER_BYTES, layout.headers - ETHERNET_HEADER_BYTES + size)
    if layout.protocol == PROTOCOL_TCP:
        l4[TCP_FLAGS] = b.flags if last else b.flags & ~(TCP_FIN | TCP_PSH)
        store_u32(l4 + TCP_SEQUENCE, b.sequence)
        total += <uint64_t>order_u16(l4[TCP_FLAGS]) + load_u32_be(l4 + TCP_SEQUENCE)
        b.flags &= ~TCP_CWR
        b.sequence += size
    else:
        store_u16(l4 + UDP_LENGTH, l4_size)
        total += order_u16(<uint16_t>l4_size)
    _write_checksum(b, l4, l4_size, total, f)
    b.pointers[b.count] = f
    b.count += 1
    b.vector_count += f.rest_count
    return True


cdef void _write_length(gso_batch *b, uint8_t *ip, uint32_t size) noexcept nogil:
    if b.layout.ipv6:
        store_u16(ip + IPV6_PAYLOAD_LENGTH, size - IPV6_HEADER_BYTES)
        return
    store_u16(ip + IPV4_TOTAL_LENGTH, size)
    store_u16(ip + IPV4_IDENTIFICATION, b.identification)
    b.identification += 1
    checksum_store(
        ip + IPV4_CHECKSUM,
        b.ipv4 + load_u16_be(ip + IPV4_TOTAL_LENGTH) + load_u16_be(ip + IPV4_IDENTIFICATION),
    )


cdef void _write_checksum(
    gso_batch *b, uint8_t *l4, uint32_t l4_size, uint64_t total, const port_frame *f
) noexcept nogil:
    """The whole one, of which *total* has all but the payload; or what NEEDS_CSUM expects."""
    cdef uint8_t *field = l4 + (TCP_CHECKSUM if b.layout.protocol == PROTOCOL_TCP else UDP_CHECKSUM)
    cdef uint16_t checksum_be
    if b.finish:
        checksum_be = <uint16_t>~checksum_fold(parts_sum(total, f.rest, f.rest_count))
        # RFC 768: 0 means "no checksum", so a computed 0 is sent as 0xFFFF, which TCP takes for the same.
        checksum_be |= <uint16_t>-<int>(checksum_be == 0)
    else:
        checksum_be = checksum_fold(b.pseudo + order_u16(<uint16_t>l4_size))
    store_u16_be(field, checksum_be)
