"""Owns how fragments become a datagram again, so that the NAT sees ports and the guest's neighbours no tricks.

Theory of operation. A datagram is known by what fragment_view.pyx reads of its fragments. They may come in any order
and are copied as they come; one that is the whole datagram is none of several (RFC 6946), and waits for nothing:

    state     a fragment that fits          a copy of one   one that overlaps, or lies about the end   its time is up
    waiting   held; whole when none lacks   dropped         refused                                    closed
    refused   dropped                       dropped         dropped                                    closed

Overlaps serve only to get something past a filter, so the whole datagram is dropped, with what is still to come of it
(RFC 5722, RFC 1858). The time runs from the first fragment that came. When it is up, the guest that sent the datagram
is told if the fragment with the L4 header was there (RFC 792); a sender outside is told nothing, for whether anybody
waits for its datagram is not known before it is whole.

fragment_store.pyx has the memory, and says who may use how much of it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.flow cimport KEY_DIRECTION_SHIFT, KEY_IPV6_SHIFT
from arcbox_net.dataplane.fragment_store cimport (
    FRAGMENT_NONE, LINK_BYTES_MAX, SHARES, datagram, datagram_close, datagram_find, datagram_keep,
    datagram_oldest, datagram_open, datagram_part, datagram_part_is, datagram_read, datagram_refuse,
    fragment_store_free, fragment_store_init,
)
from arcbox_net.dataplane.fragment_view cimport (
    ECN_CONGESTION, ECN_NOT_CAPABLE, fragment_header_size, fragment_view, fragment_view_read,
    fragment_whole_headers,
)
from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.machine cimport machine_of
from arcbox_net.dataplane.offload cimport offload_is_none
from arcbox_net.dataplane.rate_limit cimport SECOND_NS
from arcbox_net.dataplane.reassembly cimport REASSEMBLY_IPV6_S, REASSEMBLY_S, reassembly
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_FRAGMENT, DROP_BAD_OFFLOAD, DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_OVERLAP, DROP_FRAGMENTS_FULL,
    INBOUND, OUTBOUND, VERDICT_FORWARD, VERDICT_HELD, Direction, Verdict,
)
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.icmp cimport ICMP_TIME_EXCEEDED

cdef enum:
    WHOLE_OFFSET = 128  # of the IP header in the buffer: what is ahead of it in a frame goes in front
    WHOLE_BYTES = WHOLE_OFFSET + 65536 + 256
    TIME_EXCEEDED_REASSEMBLY = 1  # a code of ICMP_TIME_EXCEEDED


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
    cdef fragment_view v
    cdef uint16_t id
    if not offload_is_none(f):
        return DROP_BAD_OFFLOAD
    if f.l3 > LINK_BYTES_MAX or not fragment_view_read(&v, f.data + f.l3, direction, r.store.seed):
        return DROP_BAD_FRAGMENT
    if v.offset == 0 and v.last:
        return _join_one(r, &v, f, whole)
    if direction == OUTBOUND:
        v.owner_key = machine_of(&answers.machines, f)
    id = datagram_find(&r.store, v.key_addresses, v.key_rest)
    if id != FRAGMENT_NONE and _is_late(r, id, now_ns):
        _time_out(r, answers, id, now_ns)
        id = FRAGMENT_NONE
    if id == FRAGMENT_NONE:
        id = datagram_open(&r.store, v.key_addresses, v.key_rest, v.owner_key, now_ns)
    return _add(r, id, &v, f, whole)


cdef uint32_t reassembly_expire(
    reassembly *r, icmp_answers *answers, uint64_t now_ns, uint32_t budget
) noexcept nogil:
    """Close datagrams whose time is up, *budget* of them at most; how many."""
    cdef uint32_t closed = 0
    cdef int share
    for share in range(SHARES):
        while closed < budget and datagram_oldest(&r.store, share) != FRAGMENT_NONE:
            if not _is_late(r, datagram_oldest(&r.store, share), now_ns):
                break
            _time_out(r, answers, datagram_oldest(&r.store, share), now_ns)
            closed += 1
    return closed


cdef Verdict _add(
    reassembly *r, uint16_t id, const fragment_view *v, const frame *f, frame *whole
) noexcept nogil:
    cdef datagram *d = &r.store.datagrams[id]
    cdef Verdict verdict = _place(r, id, v)
    if verdict != VERDICT_HELD:
        return verdict
    if v.offset == 0:
        d.link_size = f.l3
        memcpy(d.link, f.data, f.l3)
        d.header_size = v.header_size
        memcpy(d.header, v.ip, v.header_size)
    d.ecn |= <uint8_t>(1 << v.ecn)
    if d.size == 0 or d.held != d.size:  # none overlap, so bytes that add up are all there
        return VERDICT_HELD
    verdict = _join(r, d, f, whole)
    datagram_close(&r.store, id)
    return verdict


cdef Verdict _place(reassembly *r, uint16_t id, const fragment_view *v) noexcept nogil:
    """Keep the fragment where it belongs among the others."""
    cdef datagram *d = &r.store.datagrams[id]
    cdef uint32_t end = v.offset + v.size
    cdef uint16_t index = d.parts
    cdef datagram_part *before = NULL
    if d.refused:
        return DROP_FRAGMENT_OVERLAP
    while index > 0 and d.part[index - 1].offset > v.offset:
        index -= 1
    if index > 0:
        before = &d.part[index - 1]
        if before.offset == v.offset and v.last == (d.size == end):
            if datagram_part_is(&r.store, before, v.payload, v.size):
                return DROP_FRAGMENT_DUPLICATE
    if (
        (before != NULL and <uint32_t>before.offset + before.size > v.offset)
        or (index < d.parts and end > d.part[index].offset)
        or (v.last and (d.size != 0 or index < d.parts))
        or (d.size != 0 and end > d.size)
    ):
        return _refuse(r, id, DROP_FRAGMENT_OVERLAP)
    if not datagram_keep(&r.store, id, index, <uint16_t>v.offset, v.payload, <uint16_t>v.size):
        return _refuse(r, id, DROP_FRAGMENTS_FULL)
    if v.last:
        d.size = end
    return VERDICT_HELD


cdef Verdict _refuse(reassembly *r, uint16_t id, Verdict why) noexcept nogil:
    r.refused += 1
    datagram_refuse(&r.store, id)
    return why


cdef Verdict _join_one(reassembly *r, const fragment_view *v, const frame *f, frame *whole) noexcept nogil:
    """Write the datagram that is in one fragment."""
    cdef uint32_t header_size = fragment_header_size(v.ip, v.header_size)
    _put_headers(r, v.ip, v.header_size, f.data, f.l3, header_size + v.size, whole)
    if not fragment_whole_headers(r.whole + WHOLE_OFFSET, v.header_size, v.size, False):
        return DROP_BAD_FRAGMENT
    memcpy(r.whole + WHOLE_OFFSET + header_size, v.payload, v.size)
    r.largest = v.header_size + v.size
    r.joined += 1
    return VERDICT_FORWARD


cdef Verdict _join(reassembly *r, const datagram *d, const frame *f, frame *whole) noexcept nogil:
    """Write the datagram of which all parts are there."""
    cdef uint8_t *ip = r.whole + WHOLE_OFFSET
    cdef uint32_t header_size = fragment_header_size(d.header, d.header_size), part_max = 0
    cdef bint congested = d.ecn >> ECN_CONGESTION & 1
    cdef uint16_t i
    if congested and d.ecn >> ECN_NOT_CAPABLE & 1:
        return DROP_BAD_FRAGMENT  # RFC 3168 5.3: a router marked it, and its sender does not know what that is
    _put_headers(r, d.header, d.header_size, f.data, f.l3, header_size + d.size, whole)
    if not fragment_whole_headers(ip, d.header_size, d.size, congested):
        return DROP_BAD_FRAGMENT
    for i in range(d.parts):
        datagram_read(&r.store, &d.part[i], ip + header_size + d.part[i].offset)
        part_max = max(part_max, <uint32_t>d.part[i].size)
    r.largest = d.header_size + part_max
    r.joined += 1
    return VERDICT_FORWARD


cdef void _put_headers(
    reassembly *r, const uint8_t *header, uint32_t header_size, const uint8_t *link, uint8_t link_size, uint32_t size,
    frame *out,
) noexcept nogil:
    """Begin a frame in the buffer with the first fragment's headers; *size* is that of its packet."""
    out.data = r.whole + WHOLE_OFFSET - link_size
    out.size = link_size + size
    out.headroom = WHOLE_OFFSET - FRAME_VNET_BYTES - link_size
    out.l3 = link_size
    out.flags = FRAME_VNET
    memset(out.data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    memcpy(out.data, link, link_size)
    memcpy(r.whole + WHOLE_OFFSET, header, header_size)


cdef bint _is_late(const reassembly *r, uint16_t id, uint64_t now_ns) noexcept nogil:
    cdef const datagram *d = &r.store.datagrams[id]
    cdef uint64_t limit_s = REASSEMBLY_IPV6_S if d.key_rest >> KEY_IPV6_SHIFT & 1 else REASSEMBLY_S
    return now_ns - d.started_ns > limit_s * SECOND_NS


cdef void _time_out(reassembly *r, icmp_answers *answers, uint16_t id, uint64_t now_ns) noexcept nogil:
    cdef const datagram *d = &r.store.datagrams[id]
    cdef frame first
    if d.key_rest >> KEY_DIRECTION_SHIFT & 1 == OUTBOUND and d.header_size and not d.refused:
        _put_headers(r, d.header, d.header_size, d.link, d.link_size, d.header_size + d.part[0].size, &first)
        datagram_read(&r.store, &d.part[0], r.whole + WHOLE_OFFSET + d.header_size)
        icmp_refuse(answers, &first, INBOUND, ICMP_TIME_EXCEEDED, TIME_EXCEEDED_REASSEMBLY, 0, now_ns)
    r.timeouts += 1
    datagram_close(&r.store, id)
