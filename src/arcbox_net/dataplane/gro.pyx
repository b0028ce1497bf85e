"""Which TCP segments of a burst are one stretch of one flow, and the super-frame that says the same.

A segment joins the one before it if cutting the super-frame would give both back, bit for bit: same addresses, ports,
TTL, TOS, DF, acknowledgment, window and options, the next sequence number and IPv4 identification (any, of a packet
that has DF: RFC 6864), flags no other than ACK, and PSH on the last. A shorter one can only be the last. What has no
options but TCP's is looked at, and nothing is joined before its checksums were found right, as the super-frame gets
new ones. A flow's segments keep their order: one that cannot join ends its flow's stretch.

Nothing waits for the next burst, and payload stays where it is.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.offload_layout cimport layout_check, layout_find, layout_pseudo_sum, offload_layout
from arcbox_net.dataplane.parts cimport parts_begin, parts_cursor, parts_sum, parts_take
from arcbox_net.dataplane.port cimport FRAME_PARTS_MAX, TAKES_TSO4, TAKES_TSO6, port_frame
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.wire.checksum cimport checksum_fold
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.ipv4 cimport (
    IPV4_FRAGMENT, IPV4_HEADER_BYTES, IPV4_IDENTIFICATION, IPV4_LENGTH_MAX, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOS,
    IPV4_TOTAL_LENGTH, IPV4_TTL, ipv4_checksum_ok, ipv4_dont_fragment, ipv4_set_checksum,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_HEADER_BYTES, IPV6_HOP_LIMIT, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH, IPV6_SOURCE,
)
from arcbox_net.wire.octets cimport load_u16, load_u16_be, store_u16, store_u16_be
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_ACK, TCP_ACKNOWLEDGMENT, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_FLAGS, TCP_HEADER_BYTES, TCP_PSH,
    TCP_URGENT, TCP_WINDOW, tcp_flags, tcp_sequence,
)
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_NEEDS_CSUM, virtio_net_header,
)

cdef enum:
    NO_FRAME = 0xFFFF
    PORTS_BYTES = 4  # both L4 ports

cdef struct gro_segment:  # of each frame of a burst
    offload_layout layout
    virtio_net_header offload
    uint16_t next  # in its stretch
    uint16_t last  # of a stretch's first: where it ends

cdef struct gro_stretch:
    uint16_t first  # NO_FRAME: this place is free
    bint closed  # nothing can follow
    bint verified  # the first one's checksums are right
    uint32_t sequence  # of what follows
    uint32_t count
    uint32_t payload
    uint32_t vectors

cdef struct gro_search:
    port_frame **frames
    gro_segment segments[BURST_MAX]
    gro_stretch stretches[GRO_FLOWS_MAX]
    uint32_t turn  # the place that is given away next
    uint32_t vectors  # of all stretches
    uint32_t joined


cdef void gro_join(gro_burst *burst, port_frame **frames, uint32_t count, uint32_t takes) noexcept nogil:
    """Fill in the burst that says the same as *frames*, BURST_MAX at most, to a port that *takes* super-frames."""
    cdef gro_search search
    cdef uint32_t i
    cdef int place
    search.frames = frames
    search.turn = 0
    search.vectors = 0
    search.joined = 0
    for place in range(GRO_FLOWS_MAX):
        search.stretches[place].first = NO_FRAME
    burst.count = 0
    burst.joined_count = 0
    burst.vector_count = 0
    for i in range(count):
        search.segments[i].last = <uint16_t>i
        if not _is_tcp(frames[i], takes) or not _find(&search, i):
            burst.frames[burst.count] = frames[i]
            burst.count += 1
    if search.joined:
        _write(burst, &search)
cdef bint _is_tcp(const port_frame *f, uint32_t takes) noexcept nogil:
    """Whether it may be worth a closer look. Its L4 ports are in its head then."""
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    if f.head.size < ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + TCP_HEADER_BYTES:
        return False
    if ip[0] == 0x45:
        return ip[IPV4_PROTOCOL] == PROTOCOL_TCP and takes & TAKES_TSO4 != 0
    if ip[0] >> 4 != 6 or f.head.size < ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + TCP_HEADER_BYTES:
        return False
    return ip[IPV6_NEXT_HEADER] == PROTOCOL_TCP and takes & TAKES_TSO6 != 0


cdef bint _find(gro_search *search, uint32_t i) noexcept nogil:
    """Let the frame join its flow's stretch, or begin one. Whether it joined."""
    cdef gro_stretch *g = _stretch_of(search, search.frames[i])
    cdef gro_segment *s = &search.segments[i]
    if not _is_plain_segment(search.frames[i], s):
        if g != NULL:
            g.first = NO_FRAME
        return False
    if g != NULL and _continues(search, g, i):
        search.segments[search.segments[g.first].last].next = <uint16_t>i
        search.segments[g.first].last = <uint16_t>i
        search.joined += 1
        return True
    if g == NULL:
        g = &search.stretches[search.turn % GRO_FLOWS_MAX]
        search.turn += 1
    g.first = <uint16_t>i
    g.closed = _ends(search, i, i)
    g.verified = False
    g.sequence = tcp_sequence(_l4(search, i)) + s.layout.payload
    g.count = 1
    g.payload = s.layout.payload
    g.vectors = 1 + <uint32_t>search.frames[i].rest_count
    return False


cdef gro_stretch *_stretch_of(gro_search *search, const port_frame *f) noexcept nogil:
    """That of the frame's flow, or NULL."""
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    cdef const uint8_t *other
    cdef bint ipv6 = ip[0] >> 4 == 6
    cdef uint32_t addresses = IPV6_SOURCE if ipv6 else IPV4_SOURCE
    cdef uint32_t size = (2 * IPV6_ADDRESS_BYTES if ipv6 else 8) + PORTS_BYTES  # the L4 ports are right behind
    cdef int place
    for place in range(GRO_FLOWS_MAX):
        if search.stretches[place].first == NO_FRAME:
            continue
        other = search.frames[search.stretches[place].first].head.data + ETHERNET_HEADER_BYTES
        if other[0] == ip[0] and memcmp(other + addresses, ip + addresses, size) == 0:
            return &search.stretches[place]
    return NULL


cdef bint _is_plain_segment(const port_frame *f, gro_segment *s) noexcept nogil:
    """Whether it is a segment with payload, and nothing about it but what a super-frame can say."""
    cdef const uint8_t *l4
    if not layout_find(f, &s.layout) or s.layout.protocol != PROTOCOL_TCP:
        return False
    l4 = f.head.data + s.layout.l4
    if (tcp_flags(l4) | TCP_PSH) != (TCP_ACK | TCP_PSH) or l4[TCP_DATA_OFFSET] & 0x0F:
        return False
    # Behind a short packet there may be the padding of an Ethernet frame.
    if s.layout.payload == 0 or s.layout.headers + s.layout.payload != f.size:
        return False
    offload_read(&f.head, &s.offload)
    if s.offload.gso_type != VIRTIO_GSO_NONE:
        return False
    return not s.offload.flags & VIRTIO_NEEDS_CSUM or layout_check(&s.layout, &s.offload)


cdef bint _continues(gro_search *search, gro_stretch *g, uint32_t i) noexcept nogil:
    """Whether the frame goes on where the stretch ends, which then has it."""
    cdef const offload_layout *first = &search.segments[g.first].layout
    cdef const offload_layout *layout = &search.segments[i].layout
    cdef uint32_t vectors = 1 + <uint32_t>search.frames[i].rest_count
    cdef uint32_t more = vectors + (g.vectors if g.count == 1 else 0)
    if g.closed or tcp_sequence(_l4(search, i)) != g.sequence or layout.headers != first.headers:
        return False
    if layout.payload > first.payload or layout.headers + g.payload + layout.payload > IPV4_LENGTH_MAX:
        return False
    if g.vectors + vectors > FRAME_PARTS_MAX or search.vectors + more > GRO_VECTORS_MAX:
        return False
    if not _same_headers(search, g, i):
        return False
    if not g.verified and not _sums_are_right(search, g.first):
        return False
    g.verified = True
    if not _sums_are_right(search, i):
        return False
    g.closed = _ends(search, g.first, i)
    g.sequence += layout.payload
    g.count += 1
    g.payload += layout.payload
    g.vectors += vectors
    search.vectors += more
    return True


cdef bint _ends(gro_search *search, uint32_t first, uint32_t i) noexcept nogil:
    """Whether nothing can follow this segment of a stretch."""
    if search.segments[i].layout.payload < search.segments[first].layout.payload:
        return True
    return tcp_flags(_l4(search, i)) & TCP_PSH != 0


cdef bint _same_headers(gro_search *search, const gro_stretch *g, uint32_t i) noexcept nogil:
    """Whether all agrees that has to, between packets of one flow with headers of one size."""
    cdef const uint8_t *a = search.frames[g.first].head.data
    cdef const uint8_t *b = search.frames[i].head.data
    cdef const uint8_t *ip = b + ETHERNET_HEADER_BYTES
    cdef uint32_t l4 = search.segments[i].layout.l4
    if memcmp(a, b, ETHERNET_HEADER_BYTES) != 0:
        return False
    a += ETHERNET_HEADER_BYTES
    if search.segments[i].layout.ipv6:
        if memcmp(a, ip, IPV6_PAYLOAD_LENGTH) != 0 or a[IPV6_HOP_LIMIT] != ip[IPV6_HOP_LIMIT]:
            return False
    else:
        if a[IPV4_TOS] != ip[IPV4_TOS] or a[IPV4_TTL] != ip[IPV4_TTL]:
            return False
        if load_u16_be(a + IPV4_FRAGMENT) != load_u16_be(ip + IPV4_FRAGMENT):
            return False
        if not ipv4_dont_fragment(ip):
            if load_u16(ip + IPV4_IDENTIFICATION) != <uint16_t>(load_u16(a + IPV4_IDENTIFICATION) + g.count):
                return False
    a += l4 - ETHERNET_HEADER_BYTES
    b += l4
    return (
        memcmp(a + TCP_ACKNOWLEDGMENT, b + TCP_ACKNOWLEDGMENT, TCP_FLAGS - TCP_ACKNOWLEDGMENT) == 0
        and load_u16_be(a + TCP_WINDOW) == load_u16_be(b + TCP_WINDOW)
        and memcmp(a + TCP_URGENT, b + TCP_URGENT, search.segments[i].layout.headers - l4 - TCP_URGENT) == 0
    )


cdef bint _sums_are_right(gro_search *search, uint32_t i) noexcept nogil:
    """Of IPv4's header; and of the segment, unless that is still to be computed."""
    cdef const port_frame *f = search.frames[i]
    cdef const offload_layout *layout = &search.segments[i].layout
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    cdef iovec vectors[1 + FRAME_PARTS_MAX]
    cdef parts_cursor c
    cdef uint32_t size = layout.headers - layout.l4 + layout.payload
    if not layout.ipv6 and not ipv4_checksum_ok(ip):
        return False
    if search.segments[i].offload.flags & VIRTIO_NEEDS_CSUM:
        return True
    parts_begin(&c, f, layout.l4)
    return checksum_fold(
        parts_sum(layout_pseudo_sum(layout, ip, size), vectors, parts_take(&c, size, vectors, 1 + FRAME_PARTS_MAX))
    ) == 0xFFFF


cdef void _write(gro_burst *burst, gro_search *search) noexcept nogil:
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
    l4[TCP_FLAGS] |= tcp_flags(_l4(search, last))
    size = f.size - layout.l4
    store_u16_be(l4 + TCP_CHECKSUM, checksum_fold(layout_pseudo_sum(layout, ip, size)))
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
    offload.gso_type = VIRTIO_GSO_TCPV6 if first.layout.ipv6 else VIRTIO_GSO_TCPV4
    offload.gso_size = <uint16_t>first.layout.payload
    offload.header_length = <uint16_t>first.layout.headers
    offload.csum_start = <uint16_t>first.layout.l4
    offload.csum_offset = TCP_CHECKSUM
    memcpy(headers - FRAME_VNET_BYTES, &offload, sizeof(offload))


cdef const uint8_t *_l4(const gro_search *search, uint32_t i) noexcept nogil:
    return search.frames[i].head.data + search.segments[i].layout.l4
