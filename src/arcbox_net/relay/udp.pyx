"""UDP flows of the relay: one connected socket towards the target for each client of a rule.

A client is its address and, where the rule's socket is bound to no address, the address of ours it sent
to: the reply must come from there. Flows end after silence both ways. When `flows_max` flows live,
datagrams of new clients are dropped and counted; those of known clients go on. Datagrams move in bursts of
UDP_BURST_MAX, whole or not at all. Sockets are watched level-triggered, because every event reads until
the queue was seen empty or gives way.
"""

from libc.errno cimport EAGAIN, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.abi.epoll cimport EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, epoll_ctl, epoll_event
from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, IP_PKTINFO,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, MSG_DONTWAIT, MSG_NOSIGNAL, SO_RCVBUF, SO_RCVBUFFORCE,
    SOCK_DGRAM, SOL_SOCKET, cmsghdr, connect, in6_pktinfo, in_pktinfo,
    mmsghdr, msghdr, recvmmsg, sendmmsg, setsockopt, sockaddr, sockaddr_in, sockaddr_in6,
)
from arcbox_net.relay.accepting cimport is_shortage
from arcbox_net.relay.flow cimport (
    BYTES_IN, BYTES_OUT, CLIENT, CONTROL_BYTES, DATAGRAMS_IN, DATAGRAMS_OUT, DROPPED, IDLE_TIMEOUT,
    ITEM_UDP_FLOW, REFUSED_FDS, REFUSED_LIMIT, TARGET, UDP_BURST_MAX, UDP_BYTES_MAX, count, counter,
    flow_acquire, flow_entry, flow_retire, flow_row, item_time, item_touch, link_append, relay_rule,
    relay_worker, udp_batch, udp_flow,
)
from arcbox_net.relay.source cimport SOURCE_COUNT, source_count, source_first, source_socket

cdef enum:
    BURSTS_MAX = 4  # of one socket in one turn
    BUCKETS = 16384
    RECEIVE_BYTES = 2097152


cdef void udp_tune(int fd) noexcept nogil:
    """Room for a burst while this thread is busy: the default of 208 KiB is a few hundred datagrams."""
    cdef int size = RECEIVE_BYTES
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) < 0:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))  # as far as net.core.rmem_max goes


cdef int udp_prepare(relay_worker *w, relay_rule *rule) noexcept nogil:
    """Set aside the burst buffers and the table, once; -1 when memory is short."""
    if w.batch == NULL:
        w.batch = <udp_batch *>calloc(1, sizeof(udp_batch))
    if w.buckets == NULL:
        w.buckets = <udp_flow **>calloc(BUCKETS, sizeof(udp_flow *))
        w.bucket_mask = BUCKETS - 1
    return 0 if w.batch != NULL and w.buckets != NULL else -1


cdef void udp_on_listener(relay_worker *w, relay_rule *rule) noexcept nogil:
    """Clients to target: consecutive datagrams of one client leave in one call."""
    cdef udp_batch *batch = w.batch
    cdef udp_flow *flow
    cdef udp_flow *last
    cdef sockaddr_in6 local
    cdef int _burst, n, i, first
    for _burst in range(BURSTS_MAX):
        n = _receive(w, rule.fd, True, rule.wildcard)
        if n <= 0:
            return
        last = NULL
        first = 0
        for i in range(n):
            _local_address(&batch.messages[i].msg_hdr, rule, &local)
            flow = _flow_of(w, rule, &batch.names[i], &local)
            if flow != last:
                _to_target(w, rule, last, first, i)
                last = flow
                first = i
        _to_target(w, rule, last, first, n)


cdef void udp_on_flow(relay_worker *w, udp_flow *flow) noexcept nogil:
    """Target to the client that this socket stands for."""
    cdef udp_batch *batch = w.batch
    cdef uint8_t control[CONTROL_BYTES]
    cdef size_t control_size = _local_control(flow, control)
    cdef int _burst, n, i
    for _burst in range(BURSTS_MAX):
        n = _receive(w, flow.fd, False, False)
        if n <= 0:
            return
        for i in range(n):
            batch.outgoing[i].msg_hdr.msg_name = &flow.client
            batch.outgoing[i].msg_hdr.msg_namelen = _address_size(&flow.client)
            batch.outgoing[i].msg_hdr.msg_control = control if control_size else NULL
            batch.outgoing[i].msg_hdr.msg_controllen = control_size
        _send(w, flow, flow.rule.fd, 0, n, TARGET)


cdef void udp_on_timeout(relay_worker *w, udp_flow *flow) noexcept nogil:
    udp_end(w, flow, IDLE_TIMEOUT)


cdef void udp_end(relay_worker *w, udp_flow *flow, counter outcome) noexcept nogil:
    cdef udp_flow **at = &w.buckets[flow.hash & w.bucket_mask]
    while at[0] != flow:
        at = &at[0].next
    at[0] = flow.next
    # A child between fork and exec may hold the socket: close alone would leave it in the epoll set.
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, flow.fd, NULL)
    close(flow.fd)
    flow_retire(w, &flow.item, &flow.rule_link, flow.rule)
    count(flow.rule, outcome, 1)


cdef void udp_describe(relay_worker *w, udp_flow *flow, flow_row *row) noexcept nogil:
    row.age_ms = w.now_ms - flow.opened_ms
    row.bytes_in = flow.moved[CLIENT]
    row.bytes_out = flow.moved[TARGET]
    row.client = flow.client


cdef int _receive(relay_worker *w, int fd, bint names, bint controls) noexcept nogil:
    """One burst into the worker's buffers; how many datagrams, or -1 when there are none."""
    cdef udp_batch *batch = w.batch
    cdef int i, n, _attempt
    for i in range(UDP_BURST_MAX):
        memset(&batch.messages[i], 0, sizeof(mmsghdr))
        batch.vectors[i].iov_base = &batch.payloads[i][0]
        batch.vectors[i].iov_len = UDP_BYTES_MAX
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        if names:
            memset(&batch.names[i], 0, sizeof(sockaddr_in6))
            batch.messages[i].msg_hdr.msg_name = &batch.names[i]
            batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
        if controls:
            batch.messages[i].msg_hdr.msg_control = &batch.controls[i][0]
            batch.messages[i].msg_hdr.msg_controllen = CONTROL_BYTES
    for _attempt in range(2):
        n = recvmmsg(fd, batch.messages, UDP_BURST_MAX, MSG_DONTWAIT, NULL)
        if n >= 0 or errno == EAGAIN:
            break  # any other error was an ICMP message for an earlier datagram, and reading has cleared it
    for i in range(n):
        batch.vectors[i].iov_len = batch.messages[i].msg_len
        memset(&batch.outgoing[i], 0, sizeof(mmsghdr))
        batch.outgoing[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.outgoing[i].msg_hdr.msg_iovlen = 1
    return n


cdef void _to_target(relay_worker *w, relay_rule *rule, udp_flow *flow, int first, int end) noexcept nogil:
    """Send received datagrams first…end-1 to the target of *flow*; NULL drops them."""
    if flow != NULL:
        _send(w, flow, flow.fd, first, end, CLIENT)
    elif end > first:
        count(rule, DROPPED, <uint64_t>(end - first))


cdef void _send(relay_worker *w, udp_flow *flow, int fd, int first, int end, int way) noexcept nogil:
    cdef mmsghdr *outgoing = w.batch.outgoing
    cdef uint64_t total = 0, sent = 0
    cdef int n, retried = -1
    while first < end:
        n = sendmmsg(fd, &outgoing[first], <unsigned int>(end - first), MSG_DONTWAIT | MSG_NOSIGNAL)
        if n > 0:
            sent += <uint64_t>n
            while n > 0:
                total += w.batch.vectors[first].iov_len
                first += 1
                n -= 1
        elif errno != EAGAIN and errno != ENOBUFS and retried != first:
            retried = first  # the error was an earlier datagram's (its port was closed): try this one
        else:
            count(flow.rule, DROPPED, 1)
            first += 1
    if sent:
        flow.moved[way] += total
        count(flow.rule, BYTES_IN if way == CLIENT else BYTES_OUT, total)
        count(flow.rule, DATAGRAMS_IN if way == CLIENT else DATAGRAMS_OUT, sent)
        item_touch(w, &flow.item)


cdef udp_flow *_flow_of(
    relay_worker *w, relay_rule *rule, const sockaddr_in6 *client, const sockaddr_in6 *local
) noexcept nogil:
    """The client's flow, made when it is new; NULL when it cannot be."""
    cdef uint32_t hashed = _hash(w, rule, client, local)
    cdef udp_flow *flow = w.buckets[hashed & w.bucket_mask]
    while flow != NULL:
        if (
            flow.hash == hashed
            and flow.rule == rule
            and memcmp(&flow.client, client, sizeof(sockaddr_in6)) == 0
            and memcmp(&flow.local, local, sizeof(sockaddr_in6)) == 0
        ):
            return flow
        flow = flow.next
    return _open(w, rule, client, local, hashed)


cdef udp_flow *_open(
    relay_worker *w, relay_rule *rule, const sockaddr_in6 *client, const sockaddr_in6 *local, uint32_t hashed
) noexcept nogil:
    cdef flow_entry *entry
    cdef udp_flow *flow
    cdef epoll_event event
    cdef int fd
    if w.flow_count >= w.flows_max:
        count(rule, REFUSED_LIMIT, 1)
        return NULL
    fd = _dial(w, rule, client)
    if fd < 0:
        if is_shortage(errno):
            count(rule, REFUSED_FDS, 1)
        return NULL
    entry = flow_acquire(w, rule, ITEM_UDP_FLOW)
    if entry == NULL:
        close(fd)
        return NULL
    flow = &entry.udp
    flow.rule = rule
    flow.opened_ms = w.now_ms
    flow.rule_link.item = &flow.item
    flow.fd = fd
    flow.client = client[0]
    flow.local = local[0]
    flow.hash = hashed
    flow.next = w.buckets[hashed & w.bucket_mask]
    w.buckets[hashed & w.bucket_mask] = flow
    link_append(&rule.flows, &flow.rule_link)
    item_time(w, &flow.item, &w.udp_idle)
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>flow
    if epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        udp_end(w, flow, REFUSED_FDS)
        return NULL
    return flow


cdef int _dial(relay_worker *w, relay_rule *rule, const sockaddr_in6 *client) noexcept nogil:
    """A socket connected to the target; -1 and errno when no source address would do."""
    cdef int fd, source
    for source in range(source_first(w, rule, client), SOURCE_COUNT):
        fd = source_socket(rule, SOCK_DGRAM, client, source)
        if fd < 0:
            continue
        udp_tune(fd)
        if connect(fd, <const sockaddr *>&rule.target, rule.target_size) == 0:
            source_count(rule, source)
            return fd
        close(fd)  # leaves errno alone
    return -1


cdef uint32_t _hash(
    relay_worker *w, relay_rule *rule, const sockaddr_in6 *client, const sockaddr_in6 *local
) noexcept nogil:
    """Seeded: clients choose what goes in."""
    cdef uint64_t words[8]  # two sockaddr_in6 of 28 bytes, 32 apart
    cdef uint64_t mixed = w.hash_seed ^ rule.id
    cdef int i
    memset(words, 0, sizeof(words))
    memcpy(words, client, sizeof(sockaddr_in6))
    memcpy(&words[4], local, sizeof(sockaddr_in6))
    for i in range(8):
        mixed = (mixed ^ words[i]) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 32
        mixed += w.hash_seed
    return <uint32_t>(mixed ^ (mixed >> 29))


cdef void _local_address(msghdr *message, relay_rule *rule, sockaddr_in6 *local) noexcept nogil:
    """The address of ours a datagram was sent to, zero on a specific bind."""
    cdef cmsghdr *control
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    memset(local, 0, sizeof(sockaddr_in6))
    if not rule.wildcard:
        return
    control = CMSG_FIRSTHDR(message)
    while control != NULL:
        if control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_PKTINFO:
            memcpy(&info, CMSG_DATA(control), sizeof(info))
            local.sin6_family = AF_INET
            (<sockaddr_in *>local).sin_addr = info.ipi_spec_dst
        elif control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_PKTINFO:
            memcpy(&info6, CMSG_DATA(control), sizeof(info6))
            local.sin6_family = AF_INET6
            local.sin6_addr = info6.ipi6_addr
            local.sin6_scope_id = info6.ipi6_ifindex if _link_local(&info6) else 0
        control = CMSG_NXTHDR(message, control)


cdef bint _link_local(const in6_pktinfo *info) noexcept nogil:
    return info.ipi6_addr.s6_addr[0] == 0xFE and (info.ipi6_addr.s6_addr[1] & 0xC0) == 0x80


cdef size_t _local_control(udp_flow *flow, uint8_t *buffer) noexcept nogil:
    """The control message that makes a reply leave from the address the client used; its size, 0 for none."""
    cdef msghdr message
    cdef cmsghdr *control
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    if flow.local.sin6_family == 0:
        return 0
    memset(&message, 0, sizeof(message))
    memset(buffer, 0, CONTROL_BYTES)
    message.msg_control = buffer
    message.msg_controllen = CONTROL_BYTES
    control = CMSG_FIRSTHDR(&message)
    if flow.local.sin6_family == AF_INET:
        memset(&info, 0, sizeof(info))
        info.ipi_spec_dst = (<sockaddr_in *>&flow.local).sin_addr
        control.cmsg_level = IPPROTO_IP
        control.cmsg_type = IP_PKTINFO
        control.cmsg_len = CMSG_LEN(sizeof(info))
        memcpy(CMSG_DATA(control), &info, sizeof(info))
        return CMSG_SPACE(sizeof(info))
    memset(&info6, 0, sizeof(info6))
    info6.ipi6_addr = flow.local.sin6_addr
    info6.ipi6_ifindex = flow.local.sin6_scope_id
    control.cmsg_level = IPPROTO_IPV6
    control.cmsg_type = IPV6_PKTINFO
    control.cmsg_len = CMSG_LEN(sizeof(info6))
    memcpy(CMSG_DATA(control), &info6, sizeof(info6))
    return CMSG_SPACE(sizeof(info6))


cdef unsigned int _address_size(const sockaddr_in6 *address) noexcept nogil:
    return sizeof(sockaddr_in) if address.sin6_family == AF_INET else sizeof(sockaddr_in6)
