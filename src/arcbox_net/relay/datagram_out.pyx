"""UDP of guests, outbound: what of a burst comes from one endpoint goes out in one call.

Datagrams of one size to one peer become one message with UDP_SEGMENT, which passes through the host's stack as
one packet; where the way out does not take it, they leave one by one. A super-frame of the guest is such a
message already.
"""

from libc.errno cimport EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy

from arcbox_net.abi.datagrams cimport IP_TOS, IP_TTL, IPV6_HOPLIMIT, IPV6_TCLASS, UDP_SEGMENT
from arcbox_net.abi.socket cimport (
    CMSG_DATA, CMSG_LEN, CMSG_SPACE, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, MSG_DONTWAIT, MSG_NOSIGNAL,
    cmsghdr, iovec, mmsghdr, msghdr, sendmmsg, sockaddr_in, sockaddr_in6,
)
from arcbox_net.relay.datagram cimport (
    datagram_endpoint, datagram_refuse, datagram_set_whole, datagram_tell,
)
from arcbox_net.relay.datagrams cimport (
    SEGMENTS_MAX, SUPER_BYTES_MAX, UDP_BYTES_OUT, UDP_DROP_BUSY, UDP_DROP_SEND, UDP_DROP_TOO_BIG, UDP_OUT,
    datagram_count, outbound_message, relay_datagrams,
)
from arcbox_net.relay.door cimport DOOR_BURST_MAX, IPV4_DOOR, address_to_name, door_packet, relay_door
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport DATAGRAM_WORTH_BYTES, relay_worker
from arcbox_net.wire.ipv4 cimport IPV4_DF, IPV4_FRAGMENT, IPV4_TTL
from arcbox_net.wire.ipv6 cimport IPV6_HOP_LIMIT
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE


cdef void datagram_out(relay_worker *w, relay_door *door, const door_packet *packet) noexcept nogil:
    """Take a guest's datagram, or a super-frame of them; it leaves before the burst has ended."""
    cdef relay_datagrams *d = <relay_datagrams *>door.datagrams
    cdef relay_endpoint *e
    cdef sockaddr_in6 name
    cdef bint whole
    address_to_name(&name, packet.version, packet.dst, packet.dst_port)
    e = datagram_endpoint(w, door, packet, &name)
    if e == NULL:
        return
    whole = not packet.joined and (
        packet.version != IPV4_DOOR or load_u16(packet.ip + IPV4_FRAGMENT) & IPV4_DF != 0
    )
    if d.gathering != e or e.dont_fragment != whole or d.vector_count == DOOR_BURST_MAX:
        _flush(w, d)
        d.gathering = e
        if e.dont_fragment != whole:
            datagram_set_whole(e, whole)
    if d.message_count == 0 or not _joins(d, packet, &name):
        d.destinations[d.message_count] = name
        _begin_message(d, e, packet)


cdef void datagram_flush(relay_worker *w, relay_door *door) noexcept nogil:
    """The burst has ended: send what was gathered."""
    _flush(w, <relay_datagrams *>door.datagrams)


cdef bint _joins(relay_datagrams *d, const door_packet *packet, const sockaddr_in6 *name) noexcept nogil:
    """Whether the datagram could be added to the last message."""
    cdef outbound_message *m = &d.gathered[d.message_count - 1]
    cdef uint32_t size = packet.payload_size
    if m.closed or size == 0 or size > m.segment or m.segments >= SEGMENTS_MAX:
        return False
    if packet.virtio.gso_type != VIRTIO_GSO_NONE or d.gathering.segments_refused:
        return False
    if m.total + size > SUPER_BYTES_MAX or m.tos != _tos(packet) or m.ttl != _ttl(packet):
        return False
    if memcmp(name, &d.destinations[d.message_count - 1], sizeof(sockaddr_in6)) != 0:
        return False
    if m.segments == 1:
        _ask_segments(d, d.message_count - 1, m.segment)
    m.closed = size < m.segment
    m.segments += 1
    m.total += size
    _add_vector(d, packet)
    d.outgoing[d.message_count - 1].msg_hdr.msg_iovlen += 1
    return True


cdef void _begin_message(relay_datagrams *d, relay_endpoint *e, const door_packet *packet) noexcept nogil:
    cdef outbound_message *m = &d.gathered[d.message_count]
    cdef msghdr *message = &d.outgoing[d.message_count].msg_hdr
    cdef uint32_t segment = packet.payload_size
    m.packet = packet[0]
    m.total = packet.payload_size
    m.segments = 1
    m.closed = packet.payload_size == 0
    m.tos = _tos(packet)
    m.ttl = _ttl(packet)
    message.msg_name = &d.destinations[d.message_count]
    message.msg_namelen = sizeof(sockaddr_in) if e.version == IPV4_DOOR else sizeof(sockaddr_in6)
    message.msg_iov = &d.vectors[d.vector_count]
    message.msg_iovlen = 1
    message.msg_control = &d.ancillary[d.message_count][0]
    message.msg_controllen = _header_fields(e.version, m.tos, m.ttl, &d.ancillary[d.message_count][0])
    if packet.virtio.gso_type != VIRTIO_GSO_NONE and packet.virtio.gso_size < segment:
        segment = packet.virtio.gso_size
        m.segments = <uint16_t>((m.total + segment - 1) // segment)
        m.closed = m.total % segment != 0
        _ask_segments(d, d.message_count, <uint16_t>segment)
    m.segment = <uint16_t>segment
    _add_vector(d, packet)
    d.message_count += 1


cdef void _add_vector(relay_datagrams *d, const door_packet *packet) noexcept nogil:
    d.vectors[d.vector_count].iov_base = packet.payload
    d.vectors[d.vector_count].iov_len = packet.payload_size
    d.vector_count += 1


cdef size_t _header_fields(uint8_t version, int tos, int ttl, uint8_t *buffer) noexcept nogil:
    """Control messages that give the datagram the guest's TOS and TTL; their size."""
    if version == IPV4_DOOR:
        _write_int(buffer, IPPROTO_IP, IP_TOS, tos)
        _write_int(buffer + CMSG_SPACE(sizeof(int)), IPPROTO_IP, IP_TTL, ttl)
    else:
        _write_int(buffer, IPPROTO_IPV6, IPV6_TCLASS, tos)
        _write_int(buffer + CMSG_SPACE(sizeof(int)), IPPROTO_IPV6, IPV6_HOPLIMIT, ttl)
    return 2 * CMSG_SPACE(sizeof(int))


cdef void _write_int(uint8_t *buffer, int level, int kind, int value) noexcept nogil:
    cdef cmsghdr *control = <cmsghdr *>buffer
    control.cmsg_level = level
    control.cmsg_type = kind
    control.cmsg_len = CMSG_LEN(sizeof(int))
    memcpy(CMSG_DATA(control), &value, sizeof(int))


cdef void _ask_segments(relay_datagrams *d, uint32_t i, uint16_t segment) noexcept nogil:
    """Have message *i* cut into datagrams of *segment* bytes."""
    cdef msghdr *message = &d.outgoing[i].msg_hdr
    cdef cmsghdr *control = <cmsghdr *>(&d.ancillary[i][0] + message.msg_controllen)
    control.cmsg_level = IPPROTO_UDP
    control.cmsg_type = UDP_SEGMENT
    control.cmsg_len = CMSG_LEN(sizeof(uint16_t))
    memcpy(CMSG_DATA(control), &segment, sizeof(uint16_t))
    message.msg_controllen += CMSG_SPACE(sizeof(uint16_t))


cdef void _flush(relay_worker *w, relay_datagrams *d) noexcept nogil:
    cdef relay_endpoint *e = d.gathering
    cdef uint32_t first = 0, end = d.message_count, retried = end
    cdef int n
    d.gathering = NULL
    d.message_count = d.vector_count = 0
    while first < end:
        n = sendmmsg(e.fd, &d.outgoing[first], end - first, MSG_DONTWAIT | MSG_NOSIGNAL)
        if n > 0:
            while n > 0:
                _sent(w, d, e, d.gathered[first].segments, d.gathered[first].total)
                first += 1
                n -= 1
        elif errno != EAGAIN and errno != ENOBUFS and retried != first:
            retried = first  # the error may be that of an earlier datagram: reading it has cleared it
        else:
            _not_sent(w, d, e, first, errno)
            first += 1


cdef void _sent(
    relay_worker *w, relay_datagrams *d, relay_endpoint *e, uint32_t datagrams, uint32_t size
) noexcept nogil:
    datagram_count(d, UDP_OUT, datagrams)
    datagram_count(d, UDP_BYTES_OUT, size)
    e.bytes_out += size
    w.moved += datagrams * DATAGRAM_WORTH_BYTES


cdef void _not_sent(relay_worker *w, relay_datagrams *d, relay_endpoint *e, uint32_t i, int failure) noexcept nogil:
    cdef outbound_message *m = &d.gathered[i]
    if m.segments > 1 and failure in (EINVAL, EIO, EMSGSIZE):
        e.segments_refused |= failure == EIO
        _send_apart(w, d, e, i)
    else:
        _drop(w, d, e, m, m.segments, failure)


cdef void _send_apart(relay_worker *w, relay_datagrams *d, relay_endpoint *e, uint32_t i) noexcept nogil:
    """Message *i* as datagrams of their own: its segments are too long for the way out, or it does not cut."""
    cdef outbound_message *m = &d.gathered[i]
    cdef mmsghdr one = d.outgoing[i]
    cdef iovec *vector = one.msg_hdr.msg_iov
    cdef iovec piece
    cdef uint32_t left = m.total, sent = 0, size
    cdef size_t at = 0
    one.msg_hdr.msg_iov = &piece
    one.msg_hdr.msg_iovlen = 1
    one.msg_hdr.msg_controllen = 2 * CMSG_SPACE(sizeof(int))
    while left:
        size = min(<uint32_t>m.segment, left)
        piece.iov_base = <uint8_t *>vector.iov_base + at
        piece.iov_len = size
        if sendmmsg(e.fd, &one, 1, MSG_DONTWAIT | MSG_NOSIGNAL) != 1:
            # The others are as long and would fare no better.
            _drop(w, d, e, m, m.segments - sent, errno)
            return
        _sent(w, d, e, 1, size)
        sent += 1
        left -= size
        at += size
        if at == vector.iov_len:
            vector += 1
            at = 0


cdef void _drop(
    relay_worker *w, relay_datagrams *d, relay_endpoint *e, outbound_message *m, uint32_t datagrams, int failure
) noexcept nogil:
    if failure == EAGAIN or failure == ENOBUFS:
        datagram_count(d, UDP_DROP_BUSY, datagrams)
    elif failure == EMSGSIZE:
        datagram_count(d, UDP_DROP_TOO_BIG, datagrams)
        datagram_tell(w, e, m.packet.dst_port)  # the error queue says for which MTU
    else:
        datagram_count(d, UDP_DROP_SEND, datagrams)
        datagram_refuse(w, d.door, &m.packet, failure)


cdef uint8_t _tos(const door_packet *packet) noexcept nogil:
    if packet.version == IPV4_DOOR:
        return packet.ip[1]
    return <uint8_t>(load_u16(packet.ip) >> 4)


cdef uint8_t _ttl(const door_packet *packet) noexcept nogil:
    return packet.ip[IPV4_TTL] if packet.version == IPV4_DOOR else packet.ip[IPV6_HOP_LIMIT]
