"""Echo (ping) of guests through the host's ping sockets: one for each guest and identifier.

A ping socket (SOCK_DGRAM, IPPROTO_ICMP or IPPROTO_ICMPV6) needs no privilege where net.ipv4.ping_group_range
holds one of our groups. Where it does not, requests are dropped and counted, and nothing is answered: only a
reply that came from the network becomes a reply to the guest. The kernel puts an identifier of its own into
requests and finds the socket by it; the guest's comes back into the reply here. Limits and filter are those of
endpoint.pxd, the timer is one of its own (RFC 5508 REQ-2: 60 s).
"""

from libc.errno cimport EACCES, EPERM, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.datagrams cimport (
    IP_RECVERR, IP_RECVTTL, IP_TTL, IPPROTO_ICMP, IPPROTO_ICMPV6, IPV6_HOPLIMIT, IPV6_RECVERR,
    IPV6_RECVHOPLIMIT,
)
from arcbox_net.abi.epoll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLIN, epoll_ctl, epoll_event,
)
from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_LEN, CMSG_SPACE, IPPROTO_IP, IPPROTO_IPV6, MSG_DONTWAIT,
    MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, cmsghdr, iovec, msghdr, sendmsg, setsockopt, sockaddr_in6,
    socket,
)
from arcbox_net.relay.datagrams cimport ANCILLARY_BYTES, relay_datagrams
from arcbox_net.relay.datagram_in cimport arrival, arrival_look, datagram_receive
from arcbox_net.relay.door cimport IPV4_DOOR, address_to_name, door_packet, relay_door
from arcbox_net.relay.datagrams cimport (
    ECHO_DROP_DESCRIPTORS, ECHO_DROP_DESTINATION, ECHO_DROP_FORBIDDEN, ECHO_DROP_GUEST_LIMIT,
    ECHO_DROP_LIMIT, ECHO_DROP_SEND, ECHO_DROP_STRANGER, ECHO_DROP_TUN, ECHO_ENDPOINTS, ECHO_ERRORS_TOLD,
    ECHO_EXPIRED, ECHO_IN, ECHO_OPENED, ECHO_OUT, echo_count, relay_echoes,
)
from arcbox_net.relay.endpoint cimport (
    endpoint_acquire, endpoint_find, endpoint_hash, endpoint_key, endpoint_release, endpoints_prepare,
    endpoints_release, peer_known, peer_learn, relay_endpoint,
)
from arcbox_net.relay.flow cimport (
    ITEM_ECHO_ENDPOINT, item_time, item_touch, relay_guest, relay_worker,
)
from arcbox_net.relay.guests cimport guest_of
from arcbox_net.relay.reach cimport REACH_OK, REACH_UDP, reach_check, reach_verdict
from arcbox_net.relay.route cimport route_check
from arcbox_net.relay.socket_error cimport socket_errors_tell
from arcbox_net.relay.super_frame cimport super_frame, super_frame_write_plain
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_ECHO_REPLY, ICMP_HEADER_BYTES, ICMP_IDENTIFIER, ICMP_TYPE, ICMPV6_ECHO_REPLY,
    PROTOCOL_ICMP, PROTOCOL_ICMPV6,
)
from arcbox_net.wire.ipv4 cimport IPV4_TTL
from arcbox_net.wire.ipv6 cimport IPV6_HOP_LIMIT
from arcbox_net.wire.octets cimport load_u16, store_u16

cdef enum:
    PAUSE_MS = 100  # without new sockets after a shortage of descriptors
    FORBIDDEN_PAUSE_MS = 1000  # and between two looks whether ping sockets are allowed by now


cdef bint echoes_prepare(relay_door *door, uint64_t seed) noexcept nogil:
    """Set aside the door's table, after `datagrams_prepare`; False when memory is short."""
    cdef relay_echoes *echoes = <relay_echoes *>calloc(1, sizeof(relay_echoes))
    door.echoes = echoes
    if echoes == NULL:
        return False
    echoes.door = door
    echoes.datagrams = <relay_datagrams *>door.datagrams
    return endpoints_prepare(
        &echoes.table, &door.guests, door.echo_flows_max, door.echo_flows_per_guest_max, seed
    )


cdef void echoes_release(relay_door *door) noexcept nogil:
    """Give the memory back. The sockets are closed."""
    cdef relay_echoes *echoes = <relay_echoes *>door.echoes
    if echoes == NULL:
        return
    endpoints_release(&echoes.table)
    free(echoes)
    door.echoes = NULL


cdef void echo_out(relay_worker *w, relay_door *door, const door_packet *packet) noexcept nogil:
    """Send a guest's request on."""
    cdef relay_echoes *echoes = <relay_echoes *>door.echoes
    cdef sockaddr_in6 name
    cdef relay_endpoint *e
    cdef uint32_t name_size = address_to_name(&name, packet.version, packet.dst, 0)
    cdef endpoint_key key
    cdef uint32_t hashed
    cdef int _attempt
    key.zero = 0
    key.l4_port = load_u16(packet.l4 + ICMP_IDENTIFIER)
    memcpy(key.guest, packet.src, sizeof(key.guest))
    hashed = endpoint_hash(&echoes.table, &key)
    e = endpoint_find(&echoes.table, &key, hashed)
    if (
        e == NULL
        or not peer_known(&echoes.table, e, &name)
        or reach_check(door.reach, REACH_UDP, packet.version == IPV4_DOOR, packet.dst, 0) != REACH_OK
    ):
        if not _may_go(echoes, packet):
            return
    if e == NULL:
        e = _open(w, echoes, packet, &key, hashed)
        if e == NULL:
            return
    peer_learn(&echoes.table, e, &name)
    item_touch(w, &e.item)
    for _attempt in range(2):  # the first may return the error of an earlier request
        if _send(e, packet, &name, name_size):
            echo_count(echoes, ECHO_OUT, 1)
            e.bytes_out += packet.payload_size
            return
    echo_count(echoes, ECHO_DROP_SEND, 1)


cdef void echo_on_event(relay_worker *w, relay_endpoint *e, uint32_t events) noexcept nogil:
    """Replies and errors of one socket; a burst a turn."""
    cdef relay_echoes *echoes = <relay_echoes *>(<relay_door *>e.rule).echoes
    cdef relay_datagrams *d = echoes.datagrams
    cdef int i, n
    if events & EPOLLERR:
        n = socket_errors_tell(
            w, echoes.door, &echoes.table, e, PROTOCOL_ICMP if e.version == IPV4_DOOR else PROTOCOL_ICMPV6,
            0,
        )
        echo_count(echoes, ECHO_ERRORS_TOLD, <uint64_t>n)
    n = datagram_receive(d, e.fd)
    for i in range(n):
        if peer_known(&echoes.table, e, &d.sources[i]):
            _pass_on(echoes, e, i)
        else:
            echo_count(echoes, ECHO_DROP_STRANGER, 1)


cdef void echo_on_timeout(relay_worker *w, relay_endpoint *e) noexcept nogil:
    echo_count(<relay_echoes *>(<relay_door *>e.rule).echoes, ECHO_EXPIRED, 1)
    echo_end(w, e)


cdef void echo_end(relay_worker *w, relay_endpoint *e) noexcept nogil:
    cdef relay_echoes *echoes = <relay_echoes *>(<relay_door *>e.rule).echoes
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, e.fd, NULL)
    close(e.fd)
    e.guest.echoes -= 1
    endpoint_release(&echoes.table, e, w.turn)
    echo_count(echoes, ECHO_ENDPOINTS, <uint64_t>-1)


cdef bint _may_go(relay_echoes *echoes, const door_packet *packet) noexcept nogil:
    """Whether a request to a new address may leave. What may not is met with silence, as by nobody."""
    cdef reach_verdict verdict = REACH_OK
    if route_check(&echoes.datagrams.routes, echoes.door.reach, packet, &verdict):
        echo_count(echoes, ECHO_DROP_SEND, 1)
        return False
    if verdict != REACH_OK:
        echo_count(echoes, ECHO_DROP_DESTINATION, 1)
        return False
    return True


cdef relay_endpoint *_open(
    relay_worker *w, relay_echoes *echoes, const door_packet *packet, const endpoint_key *key, uint32_t hashed
) noexcept nogil:
    cdef relay_guest *guest = guest_of(&echoes.door.guests, packet.guest)
    cdef relay_endpoint *e
    cdef epoll_event event
    cdef int fd
    if echoes.table.live >= echoes.table.live_max:
        echo_count(echoes, ECHO_DROP_LIMIT, 1)
        return NULL
    if w.now_ms < echoes.paused_until_ms:
        echo_count(echoes, ECHO_DROP_FORBIDDEN if echoes.forbidden else ECHO_DROP_DESCRIPTORS, 1)
        return NULL
    if guest == NULL or guest.echoes >= echoes.table.per_guest_max:
        echo_count(echoes, ECHO_DROP_GUEST_LIMIT, 1)
        return NULL
    if packet.version == IPV4_DOOR:
        fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMP)
    else:
        fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMPV6)
    if fd < 0:
        echoes.forbidden = errno == EACCES or errno == EPERM
        echoes.paused_until_ms = w.now_ms + (FORBIDDEN_PAUSE_MS if echoes.forbidden else PAUSE_MS)
        echo_count(echoes, ECHO_DROP_FORBIDDEN if echoes.forbidden else ECHO_DROP_DESCRIPTORS, 1)
        return NULL
    e = endpoint_acquire(
        &echoes.table, &echoes.door.rule, guest, ITEM_ECHO_ENDPOINT, key, hashed, w.turn
    )
    if e == NULL:
        close(fd)
        echo_count(echoes, ECHO_DROP_DESCRIPTORS, 1)
        return NULL
    guest.echoes += 1
    e.fd = fd
    e.version = packet.version
    e.opened_ms = w.now_ms
    _set_up(e)
    item_time(w, &e.item, &w.echo_idle)
    echo_count(echoes, ECHO_OPENED, 1)
    echo_count(echoes, ECHO_ENDPOINTS, 1)
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>e
    if epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        echo_end(w, e)
        echo_count(echoes, ECHO_DROP_DESCRIPTORS, 1)
        return NULL
    return e


cdef void _set_up(relay_endpoint *e) noexcept nogil:
    cdef int on = 1
    if e.version == IPV4_DOOR:
        setsockopt(e.fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof(on))
    else:
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof(on))


cdef bint _send(
    relay_endpoint *e, const door_packet *packet, sockaddr_in6 *name, uint32_t name_size
) noexcept nogil:
    """The request as it is: the kernel gives it identifier and checksum. The guest's TTL makes traceroute work."""
    cdef uint8_t ancillary[ANCILLARY_BYTES]
    cdef cmsghdr *control = <cmsghdr *>ancillary
    cdef bint v4 = e.version == IPV4_DOOR
    cdef int ttl = packet.ip[IPV4_TTL] if v4 else packet.ip[IPV6_HOP_LIMIT]
    cdef msghdr message
    cdef iovec vector
    memset(&message, 0, sizeof(message))
    vector.iov_base = packet.l4
    vector.iov_len = packet.l4_size
    message.msg_iov = &vector
    message.msg_iovlen = 1
    message.msg_name = name
    message.msg_namelen = name_size
    control.cmsg_level = IPPROTO_IP if v4 else IPPROTO_IPV6
    control.cmsg_type = IP_TTL if v4 else IPV6_HOPLIMIT
    control.cmsg_len = CMSG_LEN(sizeof(ttl))
    memcpy(CMSG_DATA(control), &ttl, sizeof(ttl))
    message.msg_control = ancillary
    message.msg_controllen = CMSG_SPACE(sizeof(ttl))
    return sendmsg(e.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0


cdef void _pass_on(relay_echoes *echoes, relay_endpoint *e, int i) noexcept nogil:
    """Received message *i*, a whole ICMP message, with the guest's identifier."""
    cdef relay_datagrams *d = echoes.datagrams
    cdef uint8_t *icmp = <uint8_t *>d.buffers[i].iov_base
    cdef uint32_t size = d.incoming[i].msg_len
    cdef bint v4 = e.version == IPV4_DOOR
    cdef super_frame f
    cdef arrival a
    if size < ICMP_HEADER_BYTES or icmp[ICMP_TYPE] != (ICMP_ECHO_REPLY if v4 else ICMPV6_ECHO_REPLY):
        return
    arrival_look(&d.incoming[i].msg_hdr, size, &a)
    f.peer = &d.sources[i]
    f.ttl = a.ttl
    f.tos = 0
    f.segments = 1
    f.total = f.segment = size - ICMP_HEADER_BYTES
    f.vectors[2].iov_base = icmp + ICMP_HEADER_BYTES
    f.vectors[2].iov_len = f.total
    store_u16(icmp + ICMP_IDENTIFIER, e.key.l4_port)
    store_u16(icmp + ICMP_CHECKSUM, 0)
    if super_frame_write_plain(d, e, &f, PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6, icmp):
        echo_count(echoes, ECHO_IN, 1)
        e.bytes_in += f.total
    else:
        echo_count(echoes, ECHO_DROP_TUN, 1)
