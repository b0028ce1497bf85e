"""Owns how fragments become a datagram again, so that the NAT sees ports and the guest's neighbours no tricks.

Theory of operation. A datagram is known by addresses, identification, protocol and direction. Its fragments may come
in any order and are copied as they come:

    state     a fragment that fits        a copy of one          one that overlaps, or lies about the end   30 s
    waiting   held; whole when none lacks dropped                refused                                    closed
    refused   dropped                     dropped                dropped                                    closed

Overlaps serve only to get something past a filter, so the whole datagram is dropped, with what is still to come of it
(RFC 5722, RFC 1858). The time runs from the first fragment that came. When it is up, the guest that sent the datagram
is told if the fragment with the L4 header was there (RFC 792); a sender outside is told nothing, for whether anybody
waits for its datagram is not known before it is whole.

fragment_store.pyx has the memory, and says who may use how much of it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.flow cimport KEY_DIRECTION_SHIFT, KEY_PROTOCOL_SHIFT
from arcbox_net.dataplane.fragment_store cimport (
    FRAGMENT_NONE, LINK_BYTES_MAX, datagram, datagram_close, datagram_find, datagram_keep, datagram_oldest,
    datagram_open, datagram_part, datagram_part_is, datagram_read, datagram_refuse, fragment_store_free,
    fragment_store_init,
)
from arcbox_net.dataplane.icmp_refuse cimport icmp_answers, icmp_refuse
from arcbox_net.dataplane.offload cimport offload_is_none
from arcbox_net.dataplane.rate_limit cimport SECOND_NS
from arcbox_net.dataplane.reassembly cimport REASSEMBLY_S, reassembly
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_FRAGMENT, DROP_BAD_OFFLOAD, DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_OVERLAP, DROP_FRAGMENTS_FULL,
    INBOUND, OUTBOUND, VERDICT_FORWARD, VERDICT_HELD, Direction, Verdict,
)
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.icmp cimport ICMP_TIME_EXCEEDED
from arcbox_net.wire.ipv4 cimport (
    IPV4_DF, IPV4_FRAGMENT, IPV4_LENGTH_MAX, IPV4_TOS, IPV4_TOTAL_LENGTH, ipv4_destination_be,
    ipv4_fragment_check, ipv4_fragment_offset, ipv4_header_size, ipv4_identification_be, ipv4_more_fragments,
    ipv4_protocol, ipv4_set_checksum, ipv4_source_be, ipv4_total_length,
)
from arcbox_net.wire.octets cimport load_u16, store_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_HEADER_BYTES, tcp_check

cdef enum:
    WHOLE_OFFSET = 128  # of the IP header in the buffer: what is ahead of it in a frame goes in front
    WHOLE_BYTES = WHOLE_OFFSET + 65536
    TIME_EXCEEDED_REASSEMBLY = 1  # a code of ICMP_TIME_EXCEEDED
    ECN_FIELD = 3
    ECN_NOT_CAPABLE = 0
    ECN_CONGESTION = 3


cdef bint reassembly_init(reassembly *r, const uint64_t *seed) noexcept nogil:
    """False when there is no memory; `reassembly_free` is due all the same."""
    memset(r, 0, sizeof(reassembly))
    r.whole = <uint8_t *>calloc(1, WHOLE_BYTES)
    return fragment_store_init(&r.store, seed) and r.whole != NULL


cdef void reassembly_free(reassembly *r) noexcept nogil:
    fragment_store_free(&r.store)
    free(r.whole)
    r.whole = NULL


cdef Verdict reassembly_take(
    reassembly *r, icmp_answers *answers, const frame *f, Direction direction, uint64_t now_ns, frame *whole
) noexcept nogil:
    """Take a fragment whose IP header was checked; it is copied.

    `VERDICT_FORWARD`: it was the last one, and *whole* is the datagram, which stays until the next call. It has a
    virtio-net header, and ahead of the IP header what this fragment has there. All else is held or dropped.
    """
    cdef const uint8_t *ip = f.data + f.l3
    cdef Verdict verdict = _check(f)
    cdef datagram *d
    cdef uint16_t id
    cdef uint64_t key_addresses, key_rest
    if verdict != VERDICT_HELD:
        return verdict
    key_addresses = <uint64_t>ipv4_destination_be(ip) << 32 | ipv4_source_be(ip)
    key_rest = (
        ipv4_identification_be(ip) | <uint64_t>ipv4_protocol(ip) << KEY_PROTOCOL_SHIFT
        | <uint64_t>direction << KEY_DIRECTION_SHIFT
    )
    id = datagram_find(&r.store, key_addresses, key_rest)
    if id != FRAGMENT_NONE and _is_late(r, id, now_ns):
        _time_out(r, answers, id, now_ns)
        id = FRAGMENT_NONE
    if id == FRAGMENT_NONE:
        id = datagram_open(
            &r.store, key_addresses, key_rest, ipv4_source_be(ip) | <uint64_t>direction << 32, now_ns
        )
    d = &r.store.datagrams[id]
    verdict = _place(r, id, ip)
    if verdict != VERDICT_HELD:
        return verdict
    if ipv4_fragment_offset(ip) == 0:
        _keep_headers(d, f)
    d.ecn |= <uint8_t>(1 << (ip[IPV4_TOS] & ECN_FIELD))
    if d.size == 0 or d.held != d.size:  # none overlap, so bytes that add up are all there
        return VERDICT_HELD
    verdict = _join(r, d, f, whole)
    datagram_close(&r.store, id)
    return verdict


cdef uint32_t reassembly_expire(
    reassembly *r, icmp_answers *answers, uint64_t now_ns, uint32_t budget
) noexcept nogil:
    """Close datagrams whose time is up, *budget* of them at most; how many."""
    cdef uint32_t closed = 0
    cdef int direction
    for direction in range(2):
        while closed < budget and datagram_oldest(&r.store, direction) != FRAGMENT_NONE:
            if not _is_late(r, datagram_oldest(&r.store, direction), now_ns):
                break
            _time_out(r, answers, datagram_oldest(&r.store, direction), now_ns)
            closed += 1
    return closed


cdef Verdict _check(const frame *f) noexcept nogil:
    """VERDICT_HELD for what can be a part of a datagram.

    The first has the whole L4 header (RFC 3128): UDP's and ICMP's are no longer than the least part.
    """
    cdef const uint8_t *ip = f.data + f.l3
    cdef const uint8_t *l4 = ip + ipv4_header_size(ip)
    cdef uint32_t size = ipv4_total_length(ip) - ipv4_header_size(ip), offset = ipv4_fragment_offset(ip)
    if not offload_is_none(f):
        return DROP_BAD_OFFLOAD
    if not ipv4_fragment_check(ip) or f.l3 > LINK_BYTES_MAX:
        return DROP_BAD_FRAGMENT
    if ipv4_protocol(ip) == PROTOCOL_TCP and offset < TCP_HEADER_BYTES and (offset or not tcp_check(l4, size)):
        return DROP_BAD_FRAGMENT
    return VERDICT_HELD


cdef Verdict _place(reassembly *r, uint16_t id, const uint8_t *ip) noexcept nogil:
    """Keep the fragment where it belongs among the others."""
    cdef datagram *d = &r.store.datagrams[id]
    cdef const uint8_t *payload = ip + ipv4_header_size(ip)
    cdef uint32_t offset = ipv4_fragment_offset(ip), size = ipv4_total_length(ip) - ipv4_header_size(ip)
    cdef uint32_t end = offset + size
    cdef bint last = not ipv4_more_fragments(ip)
    cdef uint16_t index = d.parts
    cdef datagram_part *before = NULL
    if d.refused:
        return DROP_FRAGMENT_OVERLAP
    while index > 0 and d.part[index - 1].offset > offset:
        index -= 1
    if index > 0:
        before = &d.part[index - 1]
        if before.offset == offset and last == (d.size == end) and datagram_part_is(&r.store, before, payload, size):
            return DROP_FRAGMENT_DUPLICATE
    if (
        (before != NULL and <uint32_t>before.offset + before.size > offset)
        or (index < d.parts and end > d.part[index].offset)
        or (last and (d.size != 0 or index < d.parts))
        or (d.size != 0 and end > d.size)
    ):
        return _refuse(r, id, DROP_FRAGMENT_OVERLAP)
    if not datagram_keep(&r.store, id, index, <uint16_t>offset, payload, <uint16_t>size):
        return _refuse(r, id, DROP_FRAGMENTS_FULL)
    if last:
        d.size = end
    return VERDICT_HELD


cdef Verdict _refuse(reassembly *r, uint16_t id, Verdict why) noexcept nogil:
    r.refused += 1
    datagram_refuse(&r.store, id)
    return why


cdef void _keep_headers(datagram *d, const frame *f) noexcept nogil:
    """Of the first fragment: the datagram will have its IP header."""
    d.link_size = f.l3
    memcpy(d.link, f.data, f.l3)
    d.header_size = <uint8_t>ipv4_header_size(f.data + f.l3)
    memcpy(d.header, f.data + f.l3, d.header_size)


cdef Verdict _join(reassembly *r, const datagram *d, const frame *f, frame *whole) noexcept nogil:
    """Write the datagram of which all parts are there."""
    cdef uint8_t *ip = r.whole + WHOLE_OFFSET
    cdef uint32_t size = d.header_size + d.size
    cdef uint16_t i
    if size > IPV4_LENGTH_MAX:
        return DROP_BAD_FRAGMENT
    if d.ecn >> ECN_CONGESTION & 1 and d.ecn >> ECN_NOT_CAPABLE & 1:
        return DROP_BAD_FRAGMENT  # RFC 3168 5.3: a router marked it, and its sender does not know what that is
    _put_headers(r, d, f.data, f.l3, size, whole)
    for i in range(d.parts):
        datagram_read(&r.store, &d.part[i], ip + d.header_size + d.part[i].offset)
    store_u16(ip + IPV4_TOTAL_LENGTH, size)
    store_u16(ip + IPV4_FRAGMENT, load_u16(ip + IPV4_FRAGMENT) & IPV4_DF)
    if d.ecn >> ECN_CONGESTION & 1:
        ip[IPV4_TOS] |= ECN_CONGESTION
    ipv4_set_checksum(ip)
    r.joined += 1
    return VERDICT_FORWARD


cdef void _put_headers(
    reassembly *r, const datagram *d, const uint8_t *link, uint8_t link_size, uint32_t size, frame *out
) noexcept nogil:
    """Begin a frame in the buffer with the first fragment's IP header; *size* is that of its packet."""
    out.data = r.whole + WHOLE_OFFSET - link_size
    out.size = link_size + size
    out.headroom = WHOLE_OFFSET - FRAME_VNET_BYTES - link_size
    out.l3 = link_size
    out.flags = FRAME_VNET
    memset(out.data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    memcpy(out.data, link, link_size)
    memcpy(r.whole + WHOLE_OFFSET, d.header, d.header_size)


cdef bint _is_late(const reassembly *r, uint16_t id, uint64_t now_ns) noexcept nogil:
    return now_ns - r.store.datagrams[id].started_ns > <uint64_t>REASSEMBLY_S * SECOND_NS


cdef void _time_out(reassembly *r, icmp_answers *answers, uint16_t id, uint64_t now_ns) noexcept nogil:
    cdef const datagram *d = &r.store.datagrams[id]
    cdef frame first
    if d.key_rest >> KEY_DIRECTION_SHIFT & 1 == OUTBOUND and d.header_size and not d.refused:
        _put_headers(r, d, d.link, d.link_size, d.header_size + d.part[0].size, &first)
        datagram_read(&r.store, &d.part[0], r.whole + WHOLE_OFFSET + d.header_size)
        icmp_refuse(answers, &first, INBOUND, ICMP_TIME_EXCEEDED, TIME_EXCEEDED_REASSEMBLY, 0, now_ns)
    r.timeouts += 1
    datagram_close(&r.store, id)
