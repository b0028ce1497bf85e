"""Cuts packets to the MTU (RFC 791 3.2, RFC 8200 4.5): all fragments of one are emitted, in order, or none is.

Fragments get an identification of their own, for behind one external address there are several senders who know
nothing of each other's (RFC 6864 5.3, RFC 7857 11). Of IPv6 only datagrams that came in fragments are cut.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.emitter cimport emit_packet, emit_share, emitter
from arcbox_net.dataplane.fragment cimport FRAGMENT_IDS, fragment_id_next, fragment_id_of, fragment_ids
from arcbox_net.dataplane.offload cimport offload_is_none, offload_read
from arcbox_net.dataplane.verdict cimport DROP_TOO_BIG, VERDICT_FRAGMENTED, Direction, Verdict
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES, frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_apply, checksum_delta16, checksum_store
from arcbox_net.wire.ipv4 cimport (
    IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_HEADER_BYTES, IPV4_IDENTIFICATION, IPV4_MF, IPV4_MTU_MIN, IPV4_OPTION_END,
    IPV4_OPTION_NOP, IPV4_TOTAL_LENGTH, ipv4_destination_be, ipv4_fragment_offset, ipv4_header_size,
    ipv4_identification_be, ipv4_is_fragment,
    ipv4_more_fragments, ipv4_protocol, ipv4_set_checksum, ipv4_source_be, ipv4_total_length,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_FIELD, IPV6_FRAGMENT_HEADER, IPV6_FRAGMENT_IDENTIFICATION,
    IPV6_FRAGMENT_NEXT_HEADER, IPV6_HEADER_BYTES, IPV6_HOP_BY_HOP, IPV6_MF, IPV6_MTU_MIN, IPV6_NEXT_HEADER,
    IPV6_PAYLOAD_LENGTH, IPV6_SOURCE, ipv6_total_length,
)
from arcbox_net.wire.octets cimport load_u16, load_u16_be, store_u16, store_u16_be, store_u32
from arcbox_net.wire.siphash cimport siphash13
from arcbox_net.wire.tcp cimport tcp_header_size
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_HEADER_BYTES
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE, VIRTIO_NEEDS_CSUM, virtio_net_header

cdef enum:
    OPTION_COPIED = 0x80  # every fragment has the option, not only the first


cdef struct cut:
    uint32_t header_size  # of what all fragments have
    uint32_t extension_size  # of the fragment header, if there is one
    uint32_t size  # of the rest
    uint32_t part_max  # bytes of the rest in a fragment
    uint32_t identification
    uint32_t first  # where the rest begins in its datagram: 0, unless the packet is a fragment itself
    bint more  # of the datagram follows the packet


cdef void fragment_ids_init(fragment_ids *ids, const uint64_t *seed) noexcept nogil:
    """Counters that begin anywhere: nobody can tell from one how many packets were sent."""
    cdef uint64_t mixed = seed[1]
    cdef int i
    ids.seed[0], ids.seed[1] = seed[0], seed[1]
    for i in range(FRAGMENT_IDS):
        mixed = mixed * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        ids.next[i] = <uint32_t>(mixed >> 32)


cdef Verdict fragment_emit(
    emitter *e, fragment_ids *ids, frame *packet, uint64_t sender, Direction towards, uint32_t mtu
) noexcept nogil:
    """Emit *packet*, which may be fragmented, in packets of at most *mtu* bytes.

    Its partial checksum is finished first. `DROP_TOO_BIG` for a super-frame, and when there is no room for what
    *sender*, a guest's machine or an address outside, sends.
    """
    cdef cut c
    cdef uint32_t owner
    memset(&c, 0, sizeof(cut))
    if packet.data[packet.l3] >> 4 == 4:
        if not _finish_checksum(packet):
            return DROP_TOO_BIG
        _cut_ipv4(&c, ids, packet.data + packet.l3, mtu)
    else:
        if not offload_is_none(packet):
            return DROP_TOO_BIG
        _cut_ipv6(&c, ids, packet.data + packet.l3, mtu)
    owner = <uint32_t>siphash13(ids.seed[0], ids.seed[1], <const uint8_t *>&sender, sizeof(sender))
    return _emit(e, &c, packet, owner, towards)


cdef void fragment_number(fragment_ids *ids, packet *found) noexcept nogil:
    """Give a translated packet that routers may cut an identification that no other guest's has (RFC 7857 11)."""
    cdef uint8_t *ip = found.ip
    cdef uint32_t headers, count = 1
    cdef uint16_t old_be = ipv4_identification_be(ip)
    if found.gso:  # its segments count on from its own
        headers = <uint32_t>(found.l4 - ip) + (tcp_header_size(found.l4) if found.tcp else UDP_HEADER_BYTES)
        count = (found.size - headers) // max(found.wire_size - headers, <uint32_t>1) + 1
    store_u16(
        ip + IPV4_IDENTIFICATION,
        fragment_id_next(ids, ipv4_source_be(ip), ipv4_destination_be(ip), found.protocol, count),
    )
    store_u16_be(
        ip + IPV4_CHECKSUM,
        checksum_apply(load_u16_be(ip + IPV4_CHECKSUM), checksum_delta16(old_be, ipv4_identification_be(ip))),
    )


cdef void _cut_ipv4(cut *c, fragment_ids *ids, const uint8_t *ip, uint32_t mtu) noexcept nogil:
    c.header_size = ipv4_header_size(ip)
    c.size = ipv4_total_length(ip) - c.header_size
    c.first = ipv4_fragment_offset(ip)
    c.more = ipv4_more_fragments(ip)
    if ipv4_is_fragment(ip):
        c.identification = load_u16(ip + IPV4_IDENTIFICATION)
    else:
        c.identification = fragment_id_next(ids, ipv4_source_be(ip), ipv4_destination_be(ip), ipv4_protocol(ip), 1)
    _fit(c, max(mtu, <uint32_t>IPV4_MTU_MIN))


cdef void _cut_ipv6(cut *c, fragment_ids *ids, const uint8_t *ip, uint32_t mtu) noexcept nogil:
    """Hop-by-hop options stay ahead of the fragment header."""
    c.header_size = IPV6_HEADER_BYTES
    if ip[IPV6_NEXT_HEADER] == IPV6_HOP_BY_HOP:
        c.header_size += (<uint32_t>ip[IPV6_HEADER_BYTES + 1] + 1) * 8
    c.extension_size = IPV6_FRAGMENT_BYTES
    c.size = ipv6_total_length(ip) - c.header_size
    c.identification = fragment_id_of(
        ids, siphash13(ids.seed[0], ids.seed[1], ip + IPV6_SOURCE, 2 * IPV6_ADDRESS_BYTES), 1
    )
    mtu = max(mtu, <uint32_t>IPV6_MTU_MIN)
    if c.header_size + c.size <= mtu:
        c.extension_size = 0
    _fit(c, max(mtu, c.header_size + IPV6_FRAGMENT_BYTES + 8))


cdef void _fit(cut *c, uint32_t mtu) noexcept nogil:
    cdef uint32_t ahead = c.header_size + c.extension_size
    c.part_max = c.size if ahead + c.size <= mtu else (mtu - ahead) & ~<uint32_t>7


cdef Verdict _emit(
    emitter *e, const cut *c, const frame *packet, uint32_t owner, Direction towards
) noexcept nogil:
    cdef const uint8_t *ip = packet.data + packet.l3
    cdef uint32_t ahead = c.header_size + c.extension_size, part, at = 0
    cdef uint8_t *out
    cdef uint32_t frames = (c.size + c.part_max - 1) // c.part_max if c.size else 1
    if not emit_share(e, owner, frames, packet.l3 + ahead + c.part_max):
        return DROP_TOO_BIG
    while True:  # at most 65,535 / 8 turns: a part has 8 bytes at least
        part = min(c.part_max, c.size - at)
        out = emit_packet(e, packet, towards, ahead + part)
        memcpy(out, ip, c.header_size)
        memcpy(out + ahead, ip + c.header_size + at, part)
        if ip[0] >> 4 == 4:
            _finish_ipv4(out, c, at, part)
        else:
            _finish_ipv6(out, c, at, part)
        at += part
        if at >= c.size:
            return VERDICT_FRAGMENTED


cdef void _finish_ipv4(uint8_t *out, const cut *c, uint32_t at, uint32_t part) noexcept nogil:
    if at or c.first:
        _drop_options(out, c.header_size)
    store_u16(out + IPV4_TOTAL_LENGTH, c.header_size + part)
    store_u16(out + IPV4_IDENTIFICATION, c.identification)
    store_u16(out + IPV4_FRAGMENT, (IPV4_MF if c.more or at + part < c.size else 0) | (c.first + at) // 8)
    ipv4_set_checksum(out)


cdef void _finish_ipv6(uint8_t *out, const cut *c, uint32_t at, uint32_t part) noexcept nogil:
    cdef uint8_t *extension = out + c.header_size
    cdef uint8_t *field = out + (IPV6_NEXT_HEADER if c.header_size == IPV6_HEADER_BYTES else IPV6_HEADER_BYTES)
    store_u16(out + IPV6_PAYLOAD_LENGTH, c.header_size - IPV6_HEADER_BYTES + c.extension_size + part)
    if c.extension_size:
        extension[IPV6_FRAGMENT_NEXT_HEADER] = field[0]
        extension[1] = 0
        store_u16(extension + IPV6_FRAGMENT_FIELD, at | (IPV6_MF if at + part < c.size else 0))
        store_u32(extension + IPV6_FRAGMENT_IDENTIFICATION, c.identification)
        field[0] = IPV6_FRAGMENT_HEADER


cdef bint _finish_checksum(frame *packet) noexcept nogil:
    """Whether the packet can be cut: what was left to be summed is; False for what somebody else has yet to cut."""
    cdef virtio_net_header offload
    cdef uint8_t *ip = packet.data + packet.l3
    cdef uint8_t *field
    cdef uint32_t end = packet.l3 + ipv4_total_length(ip)
    offload_read(packet, &offload)
    if offload.gso_type != VIRTIO_GSO_NONE:
        return False
    if offload.flags & VIRTIO_NEEDS_CSUM == 0:
        return True
    if <uint32_t>offload.csum_start + offload.csum_offset + 2 > end:
        return False
    field = packet.data + offload.csum_start + offload.csum_offset
    checksum_store(field, checksum_add(0, packet.data + offload.csum_start, end - offload.csum_start))
    if load_u16_be(field) == 0 and ipv4_protocol(ip) == PROTOCOL_UDP:
        store_u16(field, 0xFFFF)  # RFC 768: 0 is "no checksum"
    memset(packet.data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    return True


cdef void _drop_options(uint8_t *ip, uint32_t header_size) noexcept nogil:
    """Overwrite options that only the first fragment has (RFC 791 3.1). They were walked before."""
    cdef uint32_t at = IPV4_HEADER_BYTES, size
    while at < header_size and ip[at] != IPV4_OPTION_END:
        size = 1 if ip[at] == IPV4_OPTION_NOP or at + 1 == header_size else max(ip[at + 1], <uint8_t>1)
        size = min(size, header_size - at)
        if ip[at] & OPTION_COPIED == 0:
            memset(ip + at, IPV4_OPTION_NOP, size)
        at += size
