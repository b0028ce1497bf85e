"""Which TCP segments or UDP datagrams of a burst are one stretch of one flow: gro_write.pyx makes them a super-frame.

A segment joins the one before it if cutting the super-frame would give both back, bit for bit: same addresses, ports,
TTL, TOS, DF, acknowledgment, window and options, the next sequence number and IPv4 identification (any, of a packet
that has DF: RFC 6864), flags no other than ACK, and PSH on the last. A shorter one can only be the last. Of datagrams
the borders are their sender's: those of one size are joined, with a checksum each, and a shorter one at the end. What
has no options but TCP's is looked at, and nothing is joined before its checksums were found right, as the super-frame
gets new ones. A flow's segments keep their order: one that cannot join ends its flow's stretch.

Nothing waits for the next burst, and payload stays where it is.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.gro_search cimport (
    GRO_FLOWS_MAX, NO_FRAME, gro_l4, gro_search, gro_segment, gro_stretch,
)
from arcbox_net.dataplane.gro_write cimport gro_write
from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.offload_layout cimport layout_check, layout_find, layout_pseudo_sum, offload_layout
from arcbox_net.dataplane.parts cimport parts_begin, parts_cursor, parts_sum, parts_take
from arcbox_net.dataplane.port cimport FRAME_PARTS_MAX, TAKES_TSO4, TAKES_TSO6, TAKES_USO, port_frame
from arcbox_net.wire.checksum cimport checksum_fold
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.ipv4 cimport (
    IPV4_FRAGMENT, IPV4_HEADER_BYTES, IPV4_IDENTIFICATION, IPV4_LENGTH_MAX, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOS,
    IPV4_TTL, ipv4_checksum_ok, ipv4_dont_fragment,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_HEADER_BYTES, IPV6_HOP_LIMIT, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH, IPV6_SOURCE,
)
from arcbox_net.wire.octets cimport load_u16, load_u16_be
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_ACK, TCP_ACKNOWLEDGMENT, TCP_DATA_OFFSET, TCP_FLAGS, TCP_PSH, TCP_URGENT, TCP_WINDOW,
    tcp_flags, tcp_sequence,
)
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_HEADER_BYTES, udp_checksum_be, udp_length
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE, VIRTIO_NEEDS_CSUM

cdef enum:
    PORTS_BYTES = 4  # both L4 ports


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
        if not _may_join(frames[i], takes) or not _find(&search, i):
            burst.frames[burst.count] = frames[i]
            burst.count += 1
    if search.joined:
        gro_write(burst, &search)


cdef bint _may_join(const port_frame *f, uint32_t takes) noexcept nogil:
    """Whether it may be worth a closer look. Its L4 ports are in its head then."""
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    if f.head.size < ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + PORTS_BYTES:
        return False
    if ip[0] == 0x45:
        return _takes_joined(ip[IPV4_PROTOCOL], takes, TAKES_TSO4)
    if ip[0] >> 4 != 6 or f.head.size < ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + PORTS_BYTES:
        return False
    return _takes_joined(ip[IPV6_NEXT_HEADER], takes, TAKES_TSO6)


cdef inline bint _takes_joined(uint8_t protocol, uint32_t takes, uint32_t tso) noexcept nogil:
    if protocol == PROTOCOL_TCP:
        return takes & tso != 0
    return protocol == PROTOCOL_UDP and takes & TAKES_USO != 0


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
    g.sequence = 0 if s.layout.protocol == PROTOCOL_UDP else tcp_sequence(gro_l4(search, i)) + s.layout.payload
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
    cdef uint32_t protocol = IPV6_NEXT_HEADER if ipv6 else IPV4_PROTOCOL
    cdef uint32_t size = (2 * IPV6_ADDRESS_BYTES if ipv6 else 8) + PORTS_BYTES  # the L4 ports are right behind
    cdef int place
    for place in range(GRO_FLOWS_MAX):
        if search.stretches[place].first == NO_FRAME:
            continue
        other = search.frames[search.stretches[place].first].head.data + ETHERNET_HEADER_BYTES
        if other[0] != ip[0] or other[protocol] != ip[protocol]:
            continue
        if memcmp(other + addresses, ip + addresses, size) == 0:
            return &search.stretches[place]
    return NULL


cdef bint _is_plain_segment(const port_frame *f, gro_segment *s) noexcept nogil:
    """Whether it is a segment with payload, and nothing about it but what a super-frame can say."""
    cdef const uint8_t *l4
    if not layout_find(f, &s.layout):
        return False
    l4 = f.head.data + s.layout.l4
    if s.layout.protocol == PROTOCOL_UDP:
        if udp_length(l4) != UDP_HEADER_BYTES + s.layout.payload or udp_checksum_be(l4) == 0:
            return False
    elif (tcp_flags(l4) | TCP_PSH) != (TCP_ACK | TCP_PSH) or l4[TCP_DATA_OFFSET] & 0x0F:
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
    if g.closed or layout.headers != first.headers or layout.protocol != first.protocol:
        return False
    if layout.protocol == PROTOCOL_TCP and tcp_sequence(gro_l4(search, i)) != g.sequence:
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
    return search.segments[i].layout.protocol == PROTOCOL_TCP and tcp_flags(gro_l4(search, i)) & TCP_PSH != 0


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
    if search.segments[i].layout.protocol == PROTOCOL_UDP:
        return True
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
