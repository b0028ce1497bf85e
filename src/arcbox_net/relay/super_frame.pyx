"""Writes datagrams to a guest: IP and UDP headers, and the virtio_net_hdr that says how to cut what follows.

IPv4 datagrams beyond the guests' MTU are fragmented by the kernel behind the TUN. IPv6 is fragmented only by
its sender, and that is us.
"""

from libc.errno cimport EINVAL, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.socket cimport iovec, ntohs, sockaddr_in
from arcbox_net.relay.datagrams cimport (
    SEGMENTS_MAX, UDP_BYTES_IN, UDP_DROP_TUN, UDP_IN, datagram_count, relay_datagrams,
)
from arcbox_net.relay.door cimport IPV4_DOOR, door_write
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.relay.super_frame cimport L4_HEADER_BYTES, super_frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store, pseudo_sum
from arcbox_net.wire.icmp cimport ICMP_CHECKSUM, PROTOCOL_ICMP
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_FRAGMENT, IPV4_HEADER_BYTES, IPV4_IDENTIFICATION, IPV4_SOURCE, IPV4_TTL,
    ipv4_set_checksum, ipv4_write,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_DESTINATION, IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_HEADER, IPV6_HEADER_BYTES, IPV6_HOP_LIMIT,
    IPV6_SOURCE, ipv6_write,
)
from arcbox_net.wire.octets cimport store_u16, store_u32
from arcbox_net.wire.udp cimport (
    PROTOCOL_UDP, UDP_CHECKSUM, UDP_DESTINATION_PORT, UDP_HEADER_BYTES, UDP_LENGTH, UDP_SOURCE_PORT,
)
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM, virtio_net_header

cdef enum:
    TTL_MIN = 2  # the kernel behind the TUN takes one
    HEADERS_BYTES_MAX = IPV6_HEADER_BYTES + UDP_HEADER_BYTES


cdef void super_frame_write(relay_datagrams *d, relay_endpoint *e, super_frame *f) noexcept nogil:
    """Send *f* as one packet where that can be, else a datagram at a time."""
    cdef bint fits = e.version == IPV4_DOOR or _ip_size(e.version) + UDP_HEADER_BYTES + f.segment <= d.guest_mtu
    if fits and (f.segments == 1 or not d.super_refused):
        if _write_packet(d, e, f, f.vectors, f.vector_count, f.total, f.segments) or f.segments == 1:
            return
        if errno != EINVAL:
            return
        if f.segments <= SEGMENTS_MAX:
            d.super_refused = True  # Linux before 6.2
    _write_apart(d, e, f)


cdef void _write_apart(relay_datagrams *d, relay_endpoint *e, super_frame *f) noexcept nogil:
    cdef super_frame one = f[0]
    cdef uint8_t udp[UDP_HEADER_BYTES]
    cdef uint32_t left = f.total
    cdef size_t at = 0
    cdef int i = 2
    while left:
        one.total = min(f.segment, left)
        one.vectors[2].iov_base = <uint8_t *>f.vectors[i].iov_base + at
        one.vectors[2].iov_len = one.total
        _write_udp(e, f, udp, one.total)
        if super_frame_write_plain(d, e, &one, PROTOCOL_UDP, udp):
            _delivered(d, e, 1, one.total)
        else:
            datagram_count(d, UDP_DROP_TUN, 1)
        left -= one.total
        at += one.total
        if at == f.vectors[i].iov_len:
            i += 1
            at = 0


cdef bint _write_packet(
    relay_datagrams *d, relay_endpoint *e, const super_frame *f, iovec *vectors, int vector_count,
    uint32_t size, uint32_t segments,
) noexcept nogil:
    """A packet with *size* payload bytes in vectors[2…]."""
    cdef uint8_t headers[HEADERS_BYTES_MAX]
    cdef virtio_net_header virtio
    cdef uint32_t ip_size = _ip_size(e.version)
    cdef uint8_t *udp = headers + ip_size
    cdef uint32_t whole = ip_size + UDP_HEADER_BYTES + (f.segment if segments > 1 else size)
    _write_ip(d, e, f, headers, PROTOCOL_UDP, UDP_HEADER_BYTES + size, whole, segments)
    _write_udp(e, f, udp, size)
    _store_sum(udp, _pseudo(e.version, headers, PROTOCOL_UDP, UDP_HEADER_BYTES + size))
    memset(&virtio, 0, sizeof(virtio))
    virtio.flags = VIRTIO_NEEDS_CSUM
    virtio.csum_start = <uint16_t>ip_size
    virtio.csum_offset = UDP_CHECKSUM
    virtio.header_length = <uint16_t>(ip_size + UDP_HEADER_BYTES)
    if segments > 1:
        virtio.gso_type = VIRTIO_GSO_UDP_L4
        virtio.gso_size = <uint16_t>f.segment
    vectors[1].iov_base = headers
    vectors[1].iov_len = ip_size + UDP_HEADER_BYTES
    if door_write(d.door, &virtio, vectors, vector_count) < 0:
        datagram_count(d, UDP_DROP_TUN, segments)
        return False
    _delivered(d, e, segments, size)
    return True


cdef bint super_frame_write_plain(
    relay_datagrams *d, relay_endpoint *e, super_frame *f, uint8_t protocol, uint8_t *l4
) noexcept nogil:
    """Send one datagram behind the header at *l4*, which has no checksum yet; False when the TUN did not take it."""
    cdef uint8_t ip[IPV6_HEADER_BYTES + IPV6_FRAGMENT_BYTES]
    cdef virtio_net_header virtio
    cdef uint32_t ip_size = _ip_size(e.version)
    cdef uint32_t size = L4_HEADER_BYTES + f.total
    cdef uint32_t field = UDP_CHECKSUM if protocol == PROTOCOL_UDP else ICMP_CHECKSUM
    cdef uint64_t total
    cdef iovec vectors[4]
    _write_ip(d, e, f, ip, protocol, size, ip_size + size, 1)
    total = 0 if protocol == PROTOCOL_ICMP else _pseudo(e.version, ip, protocol, size)
    total = checksum_add(checksum_add(total, l4, L4_HEADER_BYTES), <uint8_t *>f.vectors[2].iov_base, f.total)
    checksum_store(l4 + field, total)
    if protocol == PROTOCOL_UDP and l4[field] == 0 and l4[field + 1] == 0:
        store_u16(l4 + field, 0xFFFF)  # 0 is "no checksum"
    if e.version != IPV4_DOOR and ip_size + size > d.guest_mtu:
        return _write_fragments(d, e, f, ip, protocol, l4)
    memset(&virtio, 0, sizeof(virtio))
    vectors[1].iov_base = ip
    vectors[1].iov_len = ip_size
    vectors[2].iov_base = l4
    vectors[2].iov_len = L4_HEADER_BYTES
    vectors[3] = f.vectors[2]
    return door_write(d.door, &virtio, vectors, 4) == 0


cdef bint _write_fragments(
    relay_datagrams *d, relay_endpoint *e, const super_frame *f, uint8_t *ip, uint8_t protocol, uint8_t *l4
) noexcept nogil:
    """An IPv6 packet that the guests' MTU does not hold. There is room for the extension behind *ip*."""
    cdef virtio_net_header virtio
    cdef iovec vectors[4]
    cdef uint8_t *extension = ip + IPV6_HEADER_BYTES
    cdef uint32_t part_max = (d.guest_mtu - IPV6_HEADER_BYTES - IPV6_FRAGMENT_BYTES) & ~<uint32_t>7
    cdef uint32_t at = 0, end = L4_HEADER_BYTES + f.total, part
    memset(&virtio, 0, sizeof(virtio))
    d.fragment_id += 1
    while at < end:
        part = min(part_max, end - at)
        _write_ip(d, e, f, ip, IPV6_FRAGMENT_HEADER, IPV6_FRAGMENT_BYTES + part, 0, 1)
        extension[0] = protocol
        extension[1] = 0
        store_u16(extension + 2, at | (at + part < end))
        store_u32(extension + 4, d.fragment_id)
        vectors[1].iov_base = ip
        vectors[1].iov_len = IPV6_HEADER_BYTES + IPV6_FRAGMENT_BYTES
        vectors[2].iov_base = l4
        vectors[2].iov_len = 0 if at else L4_HEADER_BYTES
        vectors[3].iov_base = <uint8_t *>f.vectors[2].iov_base + (at - L4_HEADER_BYTES if at else 0)
        vectors[3].iov_len = part - vectors[2].iov_len
        if door_write(d.door, &virtio, vectors, 4) < 0:
            return False
        at += part
    return True


cdef void _delivered(relay_datagrams *d, relay_endpoint *e, uint32_t datagrams, uint32_t size) noexcept nogil:
    datagram_count(d, UDP_IN, datagrams)
    datagram_count(d, UDP_BYTES_IN, size)
    e.bytes_in += size


cdef void _write_ip(
    relay_datagrams *d, relay_endpoint *e, const super_frame *f, uint8_t *ip, uint8_t protocol, uint32_t size,
    uint32_t whole, uint32_t segments,
) noexcept nogil:
    """The IP header ahead of *size* bytes, cut into packets of *whole* bytes."""
    cdef uint8_t ttl = <uint8_t>min(max(f.ttl, <int>TTL_MIN), 255)
    if e.version != IPV4_DOOR:
        ipv6_write(ip, protocol, size)
        store_u16(ip, 0x6000 | <uint32_t>((f.tos & 0xFF) << 4))
        ip[IPV6_HOP_LIMIT] = ttl
        memcpy(ip + IPV6_SOURCE, &f.peer.sin6_addr, ADDRESS_BYTES)
        memcpy(ip + IPV6_DESTINATION, e.key.guest, ADDRESS_BYTES)
        return
    ipv4_write(ip, protocol, size)
    ip[1] = <uint8_t>f.tos
    ip[IPV4_TTL] = ttl
    if whole > d.guest_mtu:  # it will be fragmented: RFC 6864 wants an identification of its own
        store_u16(ip + IPV4_FRAGMENT, 0)
        store_u16(ip + IPV4_IDENTIFICATION, d.ip_id)
        d.ip_id += <uint16_t>segments
    memcpy(ip + IPV4_SOURCE, &(<const sockaddr_in *>f.peer).sin_addr, 4)
    memcpy(ip + IPV4_DESTINATION, e.key.guest + 12, 4)
    ipv4_set_checksum(ip)


cdef void _write_udp(const relay_endpoint *e, const super_frame *f, uint8_t *udp, uint32_t size) noexcept nogil:
    store_u16(udp + UDP_SOURCE_PORT, ntohs(f.peer.sin6_port))  # a sockaddr_in has it in the same place
    store_u16(udp + UDP_DESTINATION_PORT, e.key.l4_port)
    store_u16(udp + UDP_LENGTH, UDP_HEADER_BYTES + size)
    store_u16(udp + UDP_CHECKSUM, 0)


cdef uint64_t _pseudo(uint8_t version, const uint8_t *ip, uint8_t protocol, uint32_t size) noexcept nogil:
    if version == IPV4_DOOR:
        return pseudo_sum(ip + IPV4_SOURCE, ip + IPV4_DESTINATION, 4, protocol, size)
    return pseudo_sum(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, ADDRESS_BYTES, protocol, size)


cdef void _store_sum(uint8_t *udp, uint64_t total) noexcept nogil:
    """What NEEDS_CSUM expects: the pseudo header's sum, not complemented."""
    cdef uint16_t folded = checksum_fold(total)
    memcpy(udp + UDP_CHECKSUM, &folded, 2)


cdef uint32_t _ip_size(uint8_t version) noexcept nogil:
    return IPV4_HEADER_BYTES if version == IPV4_DOOR else IPV6_HEADER_BYTES
