"""Cuts packets to the MTU (RFC 791 3.2): all fragments of one are emitted, in order, or none is.

Fragments get an identification of their own, for behind one external address there are several senders who know
nothing of each other's (RFC 6864 5.3, RFC 7857 11).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.emitter cimport emit_packet, emit_room, emitter
from arcbox_net.dataplane.fragment cimport FRAGMENT_IDS, fragment_id_next, fragment_ids
from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.verdict cimport DROP_TOO_BIG, VERDICT_FRAGMENTED, Direction, Verdict
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES, frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_store
from arcbox_net.wire.ipv4 cimport (
    IPV4_FRAGMENT, IPV4_HEADER_BYTES, IPV4_IDENTIFICATION, IPV4_MF, IPV4_MTU_MIN, IPV4_OPTION_END,
    IPV4_OPTION_NOP, IPV4_TOTAL_LENGTH, ipv4_destination_be, ipv4_header_size, ipv4_protocol,
    ipv4_set_checksum, ipv4_source_be, ipv4_total_length,
)
from arcbox_net.wire.octets cimport load_u16_be, store_u16
from arcbox_net.wire.udp cimport PROTOCOL_UDP
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE, VIRTIO_NEEDS_CSUM, virtio_net_header

cdef enum:
    OPTION_COPIED = 0x80  # every fragment has the option, not only the first


cdef void fragment_ids_init(fragment_ids *ids, const uint64_t *seed) noexcept nogil:
    """Counters that begin anywhere: nobody can tell from one how many packets were sent."""
    cdef uint64_t mixed = seed[1]
    cdef int i
    ids.seed = seed[0]
    for i in range(FRAGMENT_IDS):
        mixed = mixed * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        ids.next[i] = <uint16_t>(mixed >> 48)


cdef Verdict fragment_emit(
    emitter *e, fragment_ids *ids, frame *packet, Direction towards, uint32_t mtu
) noexcept nogil:
    """Emit *packet*, which may be fragmented, in packets of at most *mtu* bytes.

    Its partial checksum is finished first. `DROP_TOO_BIG` for a super-frame, and when there is no room.
    """
    cdef const uint8_t *ip = packet.data + packet.l3
    cdef uint32_t header_size = ipv4_header_size(ip), size = ipv4_total_length(ip) - header_size
    cdef uint32_t part_max, part, at = 0
    cdef uint16_t identification
    cdef uint8_t *out
    if not _finish_checksum(packet):
        return DROP_TOO_BIG
    mtu = max(mtu, <uint32_t>IPV4_MTU_MIN)
    if header_size + size <= mtu:
        part_max = size
    else:
        part_max = (mtu - header_size) & ~<uint32_t>7
    if not emit_room(e, (size + part_max - 1) // part_max if size else 1, packet.l3 + header_size + part_max):
        return DROP_TOO_BIG
    identification = fragment_id_next(ids, ipv4_source_be(ip), ipv4_destination_be(ip), ipv4_protocol(ip))
    while True:  # at most 65,535 / 8 turns: a part has 8 bytes at least
        part = min(part_max, size - at)
        out = emit_packet(e, packet, towards, header_size + part)
        memcpy(out, ip, header_size)
        if at:
            _drop_options(out, header_size)
        memcpy(out + header_size, ip + header_size + at, part)
        store_u16(out + IPV4_TOTAL_LENGTH, header_size + part)
        store_u16(out + IPV4_IDENTIFICATION, identification)
        store_u16(out + IPV4_FRAGMENT, (IPV4_MF if at + part < size else 0) | at // 8)
        ipv4_set_checksum(out)
        at += part
        if at >= size:
            return VERDICT_FRAGMENTED


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
