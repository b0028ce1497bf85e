"""UDP towards guests: what a host socket received becomes packets on the TUN, many to a super-frame.

A super-frame is one packet with segments of one size (VIRTIO_GSO_UDP_L4); the kernel carries it as far as it can
and cuts it where it must. The host's stack hands datagrams over like that too (UDP_GRO), and what came one by
one is put together here. Checksums are left to whoever cuts or delivers (NEEDS_CSUM).
"""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy

from arcbox_net.abi.datagrams cimport (
    IP_TOS, IP_TTL, IPV6_HOPLIMIT, IPV6_TCLASS, UDP_GRO,
)
from arcbox_net.abi.socket cimport (
    AF_INET, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, MSG_DONTWAIT, cmsghdr,
    msghdr, recvmmsg, sockaddr_in, sockaddr_in6,
)
from arcbox_net.relay.datagrams cimport (
    ANCILLARY_BYTES, RECEIVE_MAX, SEGMENTS_MAX, SUPER_BYTES_MAX, UDP_DROP_STRANGER,
    datagram_count, relay_datagrams,
)
from arcbox_net.relay.datagram_in cimport arrival
from arcbox_net.relay.endpoint cimport peer_known, relay_endpoint
from arcbox_net.relay.flow cimport ADDRESS_BYTES, relay_worker
from arcbox_net.relay.super_frame cimport SUPER_VECTORS_MAX, super_frame, super_frame_write

cdef enum:
    BURSTS_MAX = 4  # of one socket in one turn


cdef void datagram_in(relay_worker *w, relay_datagrams *d, relay_endpoint *e) noexcept nogil:
    """Read what waits, within the turn's budget; the socket is watched level-triggered."""
    cdef int _burst, n
    for _burst in range(BURSTS_MAX):
        n = datagram_receive(d, e.fd)
        if n > 0:
            _pass_on(d, e, n)
        if n < RECEIVE_MAX:
            return


cdef int datagram_receive(relay_datagrams *d, int fd) noexcept nogil:
    """One burst into the buffers; how many, or -1 when there are none."""
    cdef int i, n = -1, _attempt
    for i in range(RECEIVE_MAX):
        d.incoming[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
        d.incoming[i].msg_hdr.msg_controllen = ANCILLARY_BYTES
    for _attempt in range(2):
        n = recvmmsg(fd, d.incoming, RECEIVE_MAX, MSG_DONTWAIT, NULL)
        if n >= 0 or errno == EAGAIN:
            break  # any other error was an ICMP message, which the error queue has as well
    return n


cdef void _pass_on(relay_datagrams *d, relay_endpoint *e, int n) noexcept nogil:
    """Give the guest datagrams 0…n-1, as few packets as they make."""
    cdef super_frame f
    cdef arrival a
    cdef int i
    f.segments = 0
    for i in range(n):
        arrival_look(&d.incoming[i].msg_hdr, d.incoming[i].msg_len, &a)
        if not peer_known(&d.table, e, &d.sources[i]):
            datagram_count(d, UDP_DROP_STRANGER, _datagrams(&a))
            continue
        if f.segments and not _fits(d, &f, &a, &d.sources[i]):
            super_frame_write(d, e, &f)
            f.segments = 0
        if f.segments == 0:
            f.peer = &d.sources[i]
            f.segment = a.segment
            f.ttl = a.ttl
            f.tos = a.tos
            f.total = 0
            f.vector_count = 2
        f.vectors[f.vector_count].iov_base = d.buffers[i].iov_base
        f.vectors[f.vector_count].iov_len = a.size
        f.vector_count += 1
        f.total += a.size
        f.segments += _datagrams(&a)
        f.closed = f.segment == 0 or a.size % f.segment != 0
    if f.segments:
        super_frame_write(d, e, &f)


cdef void arrival_look(msghdr *message, uint32_t size, arrival *a) noexcept nogil:
    cdef cmsghdr *control = CMSG_FIRSTHDR(message)
    cdef int value
    a.size = a.segment = size
    a.ttl = 64
    a.tos = 0
    while control != NULL:
        if control.cmsg_level == IPPROTO_UDP and control.cmsg_type == UDP_GRO:
            memcpy(&value, CMSG_DATA(control), sizeof(value))
            if 0 < <uint32_t>value < size:
                a.segment = <uint32_t>value
        elif control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_TOS:
            a.tos = CMSG_DATA(control)[0]  # the one field that comes as a byte
        elif (control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_TTL) or (
            control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_HOPLIMIT
        ):
            memcpy(&a.ttl, CMSG_DATA(control), sizeof(value))
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_TCLASS:
            memcpy(&a.tos, CMSG_DATA(control), sizeof(value))
        control = CMSG_NXTHDR(message, control)


cdef uint32_t _datagrams(const arrival *a) noexcept nogil:
    return 1 if a.size <= a.segment else (a.size + a.segment - 1) // a.segment


cdef bint _fits(
    relay_datagrams *d, const super_frame *f, const arrival *a, const sockaddr_in6 *peer
) noexcept nogil:
    """Whether the datagram can follow those of *f*: from the same peer, and none longer than those before."""
    if f.closed or a.size == 0 or a.size > f.segment or a.segment != a.size or d.super_refused:
        return False
    if f.segments >= SEGMENTS_MAX or f.total + a.size > SUPER_BYTES_MAX or f.vector_count >= SUPER_VECTORS_MAX:
        return False
    if f.ttl != a.ttl or f.tos != a.tos:
        return False
    return _same_name(f.peer, peer)


cdef bint _same_name(const sockaddr_in6 *a, const sockaddr_in6 *b) noexcept nogil:
    """Of one endpoint, so of one family."""
    if a.sin6_port != b.sin6_port:
        return False
    if a.sin6_family == AF_INET:
        return (<const sockaddr_in *>a).sin_addr.s_addr == (<const sockaddr_in *>b).sin_addr.s_addr
    return memcmp(&a.sin6_addr, &b.sin6_addr, ADDRESS_BYTES) == 0
