"""Joins packets that reach the TUN in fragments.

The kernel of the guests' namespace has put every packet together already, for the ruleset wants to see ports
(nf_defrag: overlaps, duplicates, floods and lost fragments end there), and cuts it again as it was when it
leaves through the TUN. So fragments of one packet come in order and complete, and only packets that left from
different processors at once are interleaved: whatever else comes is dropped, and nothing waits for a timer.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.relay.fragments cimport (
    FRAGMENT_DROPPED, FRAGMENT_JOINED, FRAGMENT_KEPT, FRAGMENT_KEY_BYTES, FRAGMENT_SLOTS, fragment_slot,
    fragment_table, fragment_verdict,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_FRAGMENT, IPV4_IDENTIFICATION, IPV4_PROTOCOL, IPV4_SOURCE, IPV4_TOTAL_LENGTH, ipv4_check,
    ipv4_fragment_offset, ipv4_header_size, ipv4_more_fragments, ipv4_set_checksum, ipv4_total_length,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_HEADER, IPV6_HEADER_BYTES, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH,
    IPV6_SOURCE, ipv6_check, ipv6_fragment_offset, ipv6_more_fragments, ipv6_total_length,
)
from arcbox_net.wire.octets cimport store_u16
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_DATA_VALID, VIRTIO_GSO_NONE, VIRTIO_NET_HEADER_BYTES, virtio_net_header,
)

cdef enum:
    FRAME_BYTES = 65664
    LENGTH_MAX = 65535

cdef struct fragment:
    uint8_t key[FRAGMENT_KEY_BYTES]
    const uint8_t *ip
    uint32_t header_size
    const uint8_t *part
    uint32_t part_size
    uint32_t offset
    bint last


cdef bint fragments_prepare(fragment_table *t) noexcept nogil:
    cdef int i
    memset(t, 0, sizeof(fragment_table))
    t.frames = <uint8_t *>calloc(FRAGMENT_SLOTS, FRAME_BYTES)
    if t.frames == NULL:
        return False
    for i in range(FRAGMENT_SLOTS):
        t.slots[i].frame = t.frames + i * FRAME_BYTES
    return True


cdef void fragments_release(fragment_table *t) noexcept nogil:
    free(t.frames)
    t.frames = NULL


cdef fragment_verdict fragments_join(
    fragment_table *t, const uint8_t *frame, size_t size, uint8_t **whole, size_t *whole_size
) noexcept nogil:
    """Take a fragment. With the last one of a packet, *whole* is its frame, which stays until the next call."""
    cdef fragment f
    cdef fragment_slot *slot
    cdef uint32_t ip_size_max = LENGTH_MAX
    if not _check(frame, size, &f):
        return FRAGMENT_DROPPED
    slot = _slot_of(t, &f)
    if slot == NULL:
        return FRAGMENT_DROPPED
    if not _is_ipv4(f.ip):
        ip_size_max += IPV6_HEADER_BYTES
    if slot.header_size + slot.joined + f.part_size > ip_size_max:
        memset(slot.key, 0, FRAGMENT_KEY_BYTES)
        return FRAGMENT_DROPPED
    memcpy(slot.frame + VIRTIO_NET_HEADER_BYTES + slot.header_size + slot.joined, f.part, f.part_size)
    slot.joined += f.part_size
    if not f.last:
        return FRAGMENT_KEPT
    memset(slot.key, 0, FRAGMENT_KEY_BYTES)
    _close(slot, f.key[FRAGMENT_KEY_BYTES - 1])
    whole[0] = slot.frame
    whole_size[0] = VIRTIO_NET_HEADER_BYTES + slot.header_size + slot.joined
    return FRAGMENT_JOINED


cdef bint _check(const uint8_t *frame, size_t size, fragment *f) noexcept nogil:
    """Whether the frame holds a fragment that can be one of several, and what there is in it."""
    cdef const virtio_net_header *virtio = <const virtio_net_header *>frame
    if size <= VIRTIO_NET_HEADER_BYTES or virtio.flags & ~VIRTIO_DATA_VALID or virtio.gso_type != VIRTIO_GSO_NONE:
        return False
    f.ip = frame + VIRTIO_NET_HEADER_BYTES
    size -= VIRTIO_NET_HEADER_BYTES
    memset(f.key, 0, FRAGMENT_KEY_BYTES)
    if not (_check_ipv4(size, f) if _is_ipv4(f.ip) else _check_ipv6(size, f)):
        return False
    return f.part_size > 0 and (f.last or f.part_size % 8 == 0)


cdef bint _check_ipv4(size_t size, fragment *f) noexcept nogil:
    if not ipv4_check(f.ip, size):
        return False
    f.header_size = ipv4_header_size(f.ip)
    f.part = f.ip + f.header_size
    f.part_size = ipv4_total_length(f.ip) - f.header_size
    f.offset = ipv4_fragment_offset(f.ip)
    f.last = not ipv4_more_fragments(f.ip)
    memcpy(f.key, f.ip + IPV4_SOURCE, 8)
    memcpy(f.key + 32, f.ip + IPV4_IDENTIFICATION, 2)
    f.key[FRAGMENT_KEY_BYTES - 2] = 4
    f.key[FRAGMENT_KEY_BYTES - 1] = f.ip[IPV4_PROTOCOL]
    return True


cdef bint _check_ipv6(size_t size, fragment *f) noexcept nogil:
    """Only of packets without other extension headers ahead of the fragment header."""
    cdef const uint8_t *extension = f.ip + IPV6_HEADER_BYTES
    if not ipv6_check(f.ip, size) or f.ip[IPV6_NEXT_HEADER] != IPV6_FRAGMENT_HEADER:
        return False
    if ipv6_total_length(f.ip) < IPV6_HEADER_BYTES + IPV6_FRAGMENT_BYTES:
        return False
    f.header_size = IPV6_HEADER_BYTES
    f.part = extension + IPV6_FRAGMENT_BYTES
    f.part_size = ipv6_total_length(f.ip) - IPV6_HEADER_BYTES - IPV6_FRAGMENT_BYTES
    f.offset = ipv6_fragment_offset(extension)
    f.last = not ipv6_more_fragments(extension)
    memcpy(f.key, f.ip + IPV6_SOURCE, 32)
    memcpy(f.key + 32, extension + 4, 4)
    f.key[FRAGMENT_KEY_BYTES - 2] = 6
    f.key[FRAGMENT_KEY_BYTES - 1] = extension[0]
    return True


cdef fragment_slot *_slot_of(fragment_table *t, const fragment *f) noexcept nogil:
    """Where the fragment belongs; NULL when it is not the one that comes next."""
    cdef fragment_slot *slot = NULL
    cdef int i
    for i in range(FRAGMENT_SLOTS):
        if memcmp(t.slots[i].key, f.key, FRAGMENT_KEY_BYTES) == 0:
            slot = &t.slots[i]
    if f.offset:
        if slot != NULL and slot.joined != f.offset:
            memset(slot.key, 0, FRAGMENT_KEY_BYTES)
            slot = NULL
        return slot
    if slot == NULL:
        slot = &t.slots[t.oldest]
        t.oldest = (t.oldest + 1) % FRAGMENT_SLOTS
    memcpy(slot.key, f.key, FRAGMENT_KEY_BYTES)
    slot.header_size = f.header_size
    slot.joined = 0
    memset(slot.frame, 0, VIRTIO_NET_HEADER_BYTES)
    memcpy(slot.frame + VIRTIO_NET_HEADER_BYTES, f.ip, f.header_size)
    return slot


cdef void _close(fragment_slot *slot, uint8_t protocol) noexcept nogil:
    """Make the header that of a whole packet, which may be fragmented again."""
    cdef uint8_t *ip = slot.frame + VIRTIO_NET_HEADER_BYTES
    if _is_ipv4(ip):
        store_u16(ip + IPV4_TOTAL_LENGTH, slot.header_size + slot.joined)
        store_u16(ip + IPV4_FRAGMENT, 0)
        ipv4_set_checksum(ip)
    else:
        store_u16(ip + IPV6_PAYLOAD_LENGTH, slot.joined)
        ip[IPV6_NEXT_HEADER] = protocol


cdef bint _is_ipv4(const uint8_t *ip) noexcept nogil:
    return ip[0] >> 4 == 4
