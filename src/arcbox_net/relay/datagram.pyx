"""UDP endpoints of guests: each has a host socket, from its first packet until nothing left it for a while.

Theory of operation
-------------------
    event                                  what happens
    packet of an unknown endpoint          a socket is opened, or the packet is dropped and counted
    packet                                 gathered (datagram_out.pyx); restarts the timer
    end of the burst, another endpoint     what was gathered leaves in one sendmmsg
    datagram from an address sent to       to the guest (datagram_in.pyx); the timer runs on
    datagram from anywhere else            dropped and counted
    ICMP error                             told to the guest (socket_error.pyx); the timer runs on
    timer                                  the socket is closed

Live endpoints are never given up for new ones. An endpoint that has only sent to port 53 has the shorter
timer.
"""

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EPERM
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from arcbox_net.abi.datagrams cimport (
    IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IP_RECVERR, IP_RECVTOS, IP_RECVTTL,
    IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO, IPV6_PMTUDISC_WANT, IPV6_RECVERR, IPV6_RECVHOPLIMIT,
    IPV6_RECVTCLASS, UDP_GRO,
)
from arcbox_net.abi.epoll cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLIN, epoll_ctl, epoll_event
from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, SO_RCVBUF, SOCK_CLOEXEC, SOCK_DGRAM,
    SOCK_NONBLOCK, SOL_SOCKET, ntohs, setsockopt, sockaddr_in6, socket,
)
from arcbox_net.relay.answer cimport (
    UNREACHABLE_HOST, UNREACHABLE_NETWORK, UNREACHABLE_PORT, UNREACHABLE_PROHIBITED, answer_unreachable,
)
from arcbox_net.relay.datagrams cimport (
    RECEIVE_BYTES, RECEIVE_MAX, RECEIVE_STRIDE, UDP_DROP_DESCRIPTORS, UDP_DROP_DESTINATION,
    UDP_DROP_GUEST_LIMIT, UDP_DROP_LIMIT, UDP_DROP_SEND, UDP_ENDPOINTS, UDP_ERRORS_TOLD, UDP_EXPIRED,
    UDP_OPENED, datagram_count, relay_datagrams,
)
from arcbox_net.relay.datagram_in cimport datagram_in
from arcbox_net.relay.door cimport IPV4_DOOR, address_to_name, door_packet, relay_door
from arcbox_net.relay.endpoint cimport (
    endpoint_acquire, endpoint_find, endpoint_hash, endpoint_key, endpoint_release, endpoints_prepare,
    endpoints_release, peer_known, peer_learn, relay_endpoint,
)
from arcbox_net.relay.flow cimport (
    ITEM_UDP_ENDPOINT, flow_row, item_time, item_touch, relay_guest, relay_worker, timer_list,
)
from arcbox_net.relay.guests cimport guest_of
from arcbox_net.relay.reach cimport REACH_HOST, REACH_OK, REACH_UDP, reach_check, reach_verdict
from arcbox_net.relay.route cimport route_check, route_close, route_init
from arcbox_net.relay.socket_error cimport socket_errors_tell
from arcbox_net.wire.udp cimport PROTOCOL_UDP

cdef enum:
    PAUSE_MS = 100  # without new sockets after a shortage of descriptors
    DNS_PORT = 53
    # As far as net.core.rmem_max goes: 9 ms at 200,000 datagrams a second, while others have the processor.
    SOCKET_RECEIVE_BYTES = 2097152


cdef bint datagrams_prepare(relay_door *door, uint64_t seed) noexcept nogil:
    """Set aside the door's table and buffers; False when memory is short. `datagrams_release` undoes any of it."""
    cdef relay_datagrams *d = <relay_datagrams *>calloc(1, sizeof(relay_datagrams))
    cdef int i
    door.datagrams = d
    if d == NULL:
        return False
    d.door = door
    d.guest_mtu = door.guest_mtu
    d.fragment_id = <uint32_t>seed
    route_init(&d.routes)
    d.payloads = <uint8_t *>calloc(RECEIVE_MAX, RECEIVE_STRIDE)
    for i in range(RECEIVE_MAX):
        d.buffers[i].iov_base = d.payloads + <size_t>i * RECEIVE_STRIDE
        d.buffers[i].iov_len = RECEIVE_BYTES
        d.incoming[i].msg_hdr.msg_iov = &d.buffers[i]
        d.incoming[i].msg_hdr.msg_iovlen = 1
        d.incoming[i].msg_hdr.msg_name = &d.sources[i]
        d.incoming[i].msg_hdr.msg_control = &d.received_ancillary[i][0]
    return d.payloads != NULL and endpoints_prepare(
        &d.table, &door.guests, door.udp_flows_max, door.udp_flows_per_guest_max, seed
    )


cdef void datagrams_release(relay_door *door) noexcept nogil:
    """Give the memory back. The endpoints have ended."""
    cdef relay_datagrams *d = <relay_datagrams *>door.datagrams
    if d == NULL:
        return
    endpoints_release(&d.table)
    route_close(&d.routes)
    free(d.payloads)
    free(d)
    door.datagrams = NULL


cdef relay_endpoint *datagram_endpoint(
    relay_worker *w, relay_door *door, const door_packet *packet, const sockaddr_in6 *name
) noexcept nogil:
    """The packet's endpoint, opened when it is new, with its peer learnt; NULL when the packet is dropped."""
    cdef relay_datagrams *d = <relay_datagrams *>door.datagrams
    cdef endpoint_key key
    cdef relay_endpoint *e = d.gathering
    cdef uint32_t hashed = 0
    key.zero = 0
    key.l4_port = packet.src_port
    memcpy(key.guest, packet.src, sizeof(key.guest))
    if e == NULL or memcmp(&e.key, &key, sizeof(key)) != 0:
        hashed = endpoint_hash(&d.table, &key)
        e = endpoint_find(&d.table, &key, hashed)
    # A peer is known by its address, but what is published at the host's own is one port.
    if (
        e != NULL
        and peer_known(&d.table, e, name)
        and reach_check(door.reach, REACH_UDP, packet.version == IPV4_DOOR, packet.dst, packet.dst_port) == REACH_OK
    ):
        e.peer = name[0]
        _restart_timer(w, e, packet.dst_port)
        return e
    if not _may_go(w, d, packet):
        return NULL
    if e == NULL:
        e = _open(w, d, packet, &key, hashed)
    if e != NULL:
        peer_learn(&d.table, e, name)
        _restart_timer(w, e, packet.dst_port)
    return e


cdef void datagram_refuse(relay_worker *w, relay_door *door, const door_packet *packet, int failure) noexcept nogil:
    """What a datagram is told that the host did not send."""
    cdef relay_guest *guest = guest_of(&door.guests, packet.guest)
    if guest == NULL:
        return
    if failure == ENETUNREACH:
        answer_unreachable(w, door, guest, packet, UNREACHABLE_NETWORK)
    elif failure == EHOSTUNREACH:
        answer_unreachable(w, door, guest, packet, UNREACHABLE_HOST)
    elif failure == ECONNREFUSED:
        answer_unreachable(w, door, guest, packet, UNREACHABLE_PORT)
    elif failure == EACCES or failure == EPERM:
        answer_unreachable(w, door, guest, packet, UNREACHABLE_PROHIBITED)


cdef void datagram_set_whole(relay_endpoint *e, bint whole) noexcept nogil:
    """As the guest's packet was: whole or not at all, or in fragments if need be."""
    cdef int mode
    if e.version == IPV4_DOOR:
        mode = IP_PMTUDISC_DO if whole else IP_PMTUDISC_DONT
        setsockopt(e.fd, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof(mode))
    else:
        mode = IPV6_PMTUDISC_DO if whole else IPV6_PMTUDISC_WANT
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &mode, sizeof(mode))
    e.dont_fragment = whole


cdef void datagram_on_event(relay_worker *w, relay_endpoint *e, uint32_t events) noexcept nogil:
    cdef relay_datagrams *d = <relay_datagrams *>(<relay_door *>e.rule).datagrams
    if events & EPOLLERR:
        datagram_tell(w, e, ntohs(e.peer.sin6_port))
    datagram_in(w, d, e)


cdef void datagram_tell(relay_worker *w, relay_endpoint *e, uint16_t dst_port) noexcept nogil:
    """Tell the guest what errors the socket heard of; the last packet went to *dst_port*."""
    cdef relay_datagrams *d = <relay_datagrams *>(<relay_door *>e.rule).datagrams
    cdef int told = socket_errors_tell(w, d.door, &d.table, e, PROTOCOL_UDP, dst_port)
    datagram_count(d, UDP_ERRORS_TOLD, <uint64_t>told)


cdef void datagram_on_timeout(relay_worker *w, relay_endpoint *e) noexcept nogil:
    cdef relay_datagrams *d = <relay_datagrams *>(<relay_door *>e.rule).datagrams
    datagram_count(d, UDP_EXPIRED, 1)
    datagram_end(w, e)


cdef void datagram_end(relay_worker *w, relay_endpoint *e) noexcept nogil:
    cdef relay_datagrams *d = <relay_datagrams *>(<relay_door *>e.rule).datagrams
    # A child between fork and exec may hold the socket: close alone would leave it in the epoll set.
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, e.fd, NULL)
    close(e.fd)
    e.guest.endpoints -= 1
    endpoint_release(&d.table, e, w.turn)
    datagram_count(d, UDP_ENDPOINTS, <uint64_t>-1)


cdef void datagram_describe(relay_worker *w, relay_endpoint *e, flow_row *row) noexcept nogil:
    address_to_name(&row.client, e.version, e.key.guest, e.key.l4_port)
    row.peer = e.peer
    row.age_ms = w.now_ms - e.opened_ms
    row.bytes_in = e.bytes_out  # from the guest, as a flow's client
    row.bytes_out = e.bytes_in


cdef bint _may_go(relay_worker *w, relay_datagrams *d, const door_packet *packet) noexcept nogil:
    """Whether a packet to a new peer may leave; the guest is told where a router would tell it."""
    cdef reach_verdict verdict = REACH_OK
    cdef int failure
    if packet.dst_port == 0 or packet.src_port == 0:
        datagram_count(d, UDP_DROP_DESTINATION, 1)
        return False
    failure = route_check(&d.routes, d.door.reach, packet, &verdict)
    if failure:
        datagram_count(d, UDP_DROP_SEND, 1)
        datagram_refuse(w, d.door, packet, failure)
    elif verdict != REACH_OK:
        datagram_count(d, UDP_DROP_DESTINATION, 1)
        if verdict == REACH_HOST:
            datagram_refuse(w, d.door, packet, ECONNREFUSED)
    return failure == 0 and verdict == REACH_OK


cdef relay_endpoint *_open(
    relay_worker *w, relay_datagrams *d, const door_packet *packet, const endpoint_key *key, uint32_t hashed
) noexcept nogil:
    cdef relay_guest *guest = guest_of(&d.door.guests, packet.guest)
    cdef relay_endpoint *e
    cdef epoll_event event
    cdef int fd
    if d.table.live >= d.table.live_max:
        datagram_count(d, UDP_DROP_LIMIT, 1)
        return NULL
    if w.now_ms < d.paused_until_ms:
        datagram_count(d, UDP_DROP_DESCRIPTORS, 1)
        return NULL
    if guest == NULL or guest.endpoints >= d.table.per_guest_max:
        datagram_count(d, UDP_DROP_GUEST_LIMIT, 1)
        return NULL
    fd = socket(AF_INET if packet.version == IPV4_DOOR else AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    e = NULL if fd < 0 else endpoint_acquire(&d.table, &d.door.rule, guest, ITEM_UDP_ENDPOINT, key, hashed, w.turn)
    if e == NULL:
        close(fd)
        d.paused_until_ms = w.now_ms + PAUSE_MS
        datagram_count(d, UDP_DROP_DESCRIPTORS, 1)
        return NULL
    guest.endpoints += 1
    e.fd = fd
    e.version = packet.version
    e.opened_ms = w.now_ms
    _set_up(e)
    datagram_count(d, UDP_OPENED, 1)
    datagram_count(d, UDP_ENDPOINTS, 1)
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>e
    if epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        datagram_end(w, e)
        datagram_count(d, UDP_DROP_DESCRIPTORS, 1)
        return NULL
    return e


cdef void _set_up(relay_endpoint *e) noexcept nogil:
    """An option that fails costs speed or a header field, not the flow."""
    cdef int on = 1, size = SOCKET_RECEIVE_BYTES
    setsockopt(e.fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
    setsockopt(e.fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on))
    if e.version == IPV4_DOOR:
        setsockopt(e.fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IP, IP_RECVTOS, &on, sizeof(on))
    else:
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof(on))
        setsockopt(e.fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof(on))
    datagram_set_whole(e, True)


cdef void _restart_timer(relay_worker *w, relay_endpoint *e, uint16_t dst_port) noexcept nogil:
    cdef timer_list *timers = &w.udp_idle
    if dst_port == DNS_PORT and e.item.timers != timers:
        timers = &w.dns_idle
    if e.item.timers == timers:
        item_touch(w, &e.item)
    else:
        item_time(w, &e.item, timers)
