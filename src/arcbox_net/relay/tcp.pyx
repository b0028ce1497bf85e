"""TCP flows of the relay: accept, dial, carry both ways, end. Owns the two sockets of a flow.

Theory of operation
-------------------
    state       entered when                 left when
    CONNECTING  a client was accepted,       the dial succeeded → OPEN; it failed → the client is reset;
                the target is being dialled  the client is gone → the dial is given up
    OPEN        the target answered          both ways carried their FIN → both closed;
                                             either side failed, or silence for the idle timeout → both reset

A FIN of one side is handed on after the last byte before it, and the other way goes on for as long as it
likes. An error of one side (RST, timeout of keepalive) becomes an RST for the other: what was readable is
still handed on first. A plain listener has accepted before we can dial, so a failed dial shows as a RST
right after connect.
"""

from libc.errno cimport EINPROGRESS, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcmp, memset, strncmp

from arcbox_net.abi.epoll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP,
    epoll_ctl, epoll_event,
)
from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, IPPROTO_TCP, SO_ERROR, SO_KEEPALIVE, SO_LINGER, SO_OOBINLINE, SO_SNDBUFFORCE, SOCK_STREAM,
    SOL_SOCKET, TCP_CONGESTION, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_NODELAY,
    connect, getpeername, getsockname, getsockopt, linger, setsockopt, sockaddr, sockaddr_in,
    sockaddr_in6, socklen_t,
)
from arcbox_net.relay.accepting cimport (
    ACCEPT_NOTHING, ACCEPT_SHORTAGE, ACCEPT_TAKEN, ACCEPTS_MAX, accept_next, acceptance, is_shortage,
    reserve_restore, reserve_spend,
)
from arcbox_net.relay.flow cimport (
    BYTES_IN, BYTES_OUT, CLIENT, CLOSED, CONNECT_FAILED, CONNECT_TIMEOUT, IDLE_TIMEOUT,
    ITEM_TCP_FLOW, REFUSED_FDS, REFUSED_LIMIT, RESET, TARGET, TCP_CONNECTING, TCP_OPEN, count, counter,
    flow_acquire, flow_entry, flow_retire, flow_row, item_queue, item_time, item_touch, link_append,
    relay_rule, relay_worker, tcp_flow, tcp_side,
)
from arcbox_net.relay.pipes cimport pipe_release
from arcbox_net.relay.pump cimport PUMP_FAILED, PUMP_MORE, pump
from arcbox_net.relay.source cimport SOURCE_COUNT, source_count, source_first, source_socket

cdef enum:
    KEEPALIVE_IDLE_S = 600
    KEEPALIVE_INTERVAL_S = 75
    KEEPALIVE_PROBES = 9
    SEND_BYTES = 4194304  # the kernel doubles it
    WIDE_FLOWS_MAX = 64  # that get so much at both ends: a GiB, if nobody reads


cdef void tcp_on_listener(relay_worker *w, relay_rule *rule) noexcept nogil:
    """Accept what waits; a listener that is resting after a shortage of descriptors is left alone."""
    cdef int fd, _i
    cdef sockaddr_in6 client
    cdef acceptance outcome
    if rule.item.timers != NULL:
        return
    for _i in range(ACCEPTS_MAX):
        outcome = accept_next(rule.fd, &fd, &client)
        if outcome == ACCEPT_TAKEN:
            _open(w, rule, fd, &client)
        elif outcome == ACCEPT_NOTHING:
            return
        elif outcome == ACCEPT_SHORTAGE:
            _shed(w, rule)
            return
    item_queue(w, &rule.item)


cdef void tcp_note(tcp_side *s, uint32_t events) noexcept nogil:
    """What an event says about a side's socket."""
    if events & (EPOLLERR | EPOLLHUP):
        s.readable = s.writable = s.ended = 1
        if events & EPOLLERR:
            s.failed = 1
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLPRI):
        s.readable = 1
        if events & EPOLLRDHUP:
            s.ended = 1
        if events & EPOLLPRI:
            s.urgent = 1
    if events & EPOLLOUT:
        s.writable = 1


cdef void tcp_on_event(relay_worker *w, tcp_flow *flow, int side, uint32_t events) noexcept nogil:
    cdef tcp_side *s = &flow.sides[side]
    tcp_note(s, events)
    if flow.state == TCP_CONNECTING:
        if s.failed:
            tcp_end(w, flow, CONNECT_FAILED if side == TARGET else RESET)
            return
        if side != TARGET or not _dialled(w, flow):
            return
    tcp_on_turn(w, flow)


cdef void tcp_on_turn(relay_worker *w, tcp_flow *flow) noexcept nogil:
    """Carry both ways for one budget each, then decide what becomes of the flow."""
    cdef uint64_t moved_in = flow.ways[CLIENT].moved, moved_out = flow.ways[TARGET].moved
    cdef int inward, outward
    inward = pump(
        w, &flow.ways[CLIENT], &flow.sides[CLIENT], &flow.sides[TARGET], flow.ways[TARGET].fin_sent
    )
    outward = pump(
        w, &flow.ways[TARGET], &flow.sides[TARGET], &flow.sides[CLIENT], flow.ways[CLIENT].fin_sent
    )
    moved_in = flow.ways[CLIENT].moved - moved_in
    moved_out = flow.ways[TARGET].moved - moved_out
    w.moved += moved_in + moved_out
    if moved_in:
        count(flow.rule, BYTES_IN, moved_in)
    if moved_out:
        count(flow.rule, BYTES_OUT, moved_out)
    if moved_in or moved_out:
        item_touch(w, &flow.item)
    if inward == PUMP_FAILED or outward == PUMP_FAILED:
        tcp_reset(w, flow)
    elif flow.sides[CLIENT].failed or flow.sides[TARGET].failed:
        tcp_reset(w, flow)
    elif flow.ways[CLIENT].fin_sent and flow.ways[TARGET].fin_sent:
        tcp_end(w, flow, CLOSED)
    elif inward == PUMP_MORE or outward == PUMP_MORE:
        item_queue(w, &flow.item)


cdef void tcp_on_timeout(relay_worker *w, tcp_flow *flow) noexcept nogil:
    tcp_end(w, flow, CONNECT_TIMEOUT if flow.state == TCP_CONNECTING else IDLE_TIMEOUT)


cdef void tcp_reset(relay_worker *w, tcp_flow *flow) noexcept nogil:
    """End the flow with a RST on both sides."""
    tcp_end(w, flow, RESET)


cdef void tcp_describe(relay_worker *w, tcp_flow *flow, flow_row *row) noexcept nogil:
    cdef socklen_t size = sizeof(sockaddr_in6)
    row.state = flow.state
    row.half_closed = flow.ways[CLIENT].fin_sent or flow.ways[TARGET].fin_sent
    row.age_ms = w.now_ms - flow.opened_ms
    row.bytes_in = flow.ways[CLIENT].moved
    row.bytes_out = flow.ways[TARGET].moved
    row.held = flow.ways[CLIENT].held + flow.ways[TARGET].held
    getpeername(flow.sides[CLIENT].fd, <sockaddr *>&row.client, &size)


cdef int tcp_tune(int fd) noexcept nogil:
    """Options of every socket of ours. A listener hands them on to what it accepts."""
    cdef int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, probes = KEEPALIVE_PROBES
    # Urgent data goes on inline: its position is lost, its bytes are not.
    return (
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
        | setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on))
        | setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
        | setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle))
        | setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval))
        | setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes))
    )


cdef void tcp_unpace(int fd) noexcept nogil:
    """Where the host's default is bbr, use another congestion control: the peer is on this machine.

    bbr paces to the bottleneck it finds. Between two sockets of a machine that is the scheduler, and a
    relayed stream, paced twice, gets half of the throughput or less.
    """
    cdef char name[16]
    cdef socklen_t size = sizeof(name)
    if getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &size) < 0 or strncmp(name, b"bbr", 3) != 0:
        return
    if setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"cubic", 5) < 0:
        # Not built, or not among the ones that every user may choose. reno is always there, for everybody.
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"reno", 4)


cdef void _widen(int fd) noexcept nogil:
    """Let a send buffer take some whole pipes, where that is allowed (root): fewer wake-ups for the same bytes.

    Without the privilege the kernel goes on tuning it: a plain SO_SNDBUF would end that, at a lower limit.
    """
    cdef int size = SEND_BYTES
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size))


cdef void _open(relay_worker *w, relay_rule *rule, int client_fd, const sockaddr_in6 *client) noexcept nogil:
    """A flow for an accepted client: dial the rule's target, or reset the client."""
    cdef flow_entry *entry
    cdef tcp_flow *flow
    cdef int target_fd
    if w.flow_count >= w.flows_max:
        count(rule, REFUSED_LIMIT, 1)
        tcp_close_reset(client_fd)
        return
    target_fd = _dial(w, rule, client)
    if target_fd < 0:
        count(rule, REFUSED_FDS if is_shortage(errno) else CONNECT_FAILED, 1)
        tcp_close_reset(client_fd)
        return
    entry = flow_acquire(w, rule, ITEM_TCP_FLOW)
    if entry == NULL:
        count(rule, REFUSED_LIMIT, 1)
        tcp_close_reset(target_fd)
        tcp_close_reset(client_fd)
        return
    if w.flow_count <= WIDE_FLOWS_MAX:  # this one is counted
        _widen(client_fd)
        _widen(target_fd)
    flow = &entry.tcp
    flow.rule = rule
    flow.opened_ms = w.now_ms
    flow.state = TCP_CONNECTING
    flow.rule_link.item = &flow.item
    flow.sides[CLIENT].fd = client_fd
    flow.sides[TARGET].fd = target_fd
    flow.sides[CLIENT].writable = 1
    link_append(&rule.flows, &flow.rule_link)
    item_time(w, &flow.item, &w.connecting)
    if tcp_watch(w, flow, TARGET) < 0 or tcp_watch(w, flow, CLIENT) < 0:
        tcp_end(w, flow, REFUSED_FDS)


cdef int _dial(relay_worker *w, relay_rule *rule, const sockaddr_in6 *client) noexcept nogil:
    """A socket that has begun to connect to the target; -1 and errno when no source address would do."""
    cdef int fd, source
    for source in range(source_first(w, rule, client), SOURCE_COUNT):
        fd = source_socket(rule, SOCK_STREAM, client, source)
        if fd < 0:
            continue
        tcp_tune(fd)
        tcp_unpace(fd)
        if connect(fd, <const sockaddr *>&rule.target, rule.target_size) == 0 or errno == EINPROGRESS:
            source_count(rule, source)
            return fd
        close(fd)  # leaves errno alone
    return -1


cdef bint _dialled(relay_worker *w, tcp_flow *flow) noexcept nogil:
    """Whether the dial has succeeded; a failed one ends the flow."""
    cdef int failure = 0
    cdef socklen_t size = sizeof(failure)
    if not flow.sides[TARGET].writable:
        return False
    getsockopt(flow.sides[TARGET].fd, SOL_SOCKET, SO_ERROR, &failure, &size)
    if failure or (flow.rule.self_dial and _met_itself(flow.sides[TARGET].fd)):
        tcp_end(w, flow, CONNECT_FAILED)
        return False
    flow.state = TCP_OPEN
    item_time(w, &flow.item, &w.idle)
    return True


cdef bint _met_itself(int fd) noexcept nogil:
    """Whether a dial to a free loopback port got that very port as its source, and so connected."""
    cdef sockaddr_in6 ours, theirs
    cdef socklen_t our_size = sizeof(ours), their_size = sizeof(theirs)
    memset(&ours, 0, sizeof(ours))
    memset(&theirs, 0, sizeof(theirs))
    if getsockname(fd, <sockaddr *>&ours, &our_size) < 0:
        return False
    if getpeername(fd, <sockaddr *>&theirs, &their_size) < 0:
        return False
    if our_size != their_size:
        return False
    # sockaddr_in ends in eight bytes that mean nothing
    return memcmp(&ours, &theirs, sizeof(sockaddr_in) - 8 if ours.sin6_family == AF_INET else our_size) == 0


cdef void _shed(relay_worker *w, relay_rule *rule) noexcept nogil:
    """Out of descriptors: reset those who wait, by the one kept in reserve, and let the listener rest."""
    cdef int fd, _i
    cdef sockaddr_in6 client
    reserve_spend(w)
    for _i in range(ACCEPTS_MAX):
        if accept_next(rule.fd, &fd, &client) != ACCEPT_TAKEN:
            break
        count(rule, REFUSED_FDS, 1)
        tcp_close_reset(fd)
    reserve_restore(w)
    item_time(w, &rule.item, &w.paused)


cdef int tcp_watch(relay_worker *w, tcp_flow *flow, int side) noexcept nogil:
    """Have the side's events from now on, and what it is ready for now; -1 without memory for that."""
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET
    event.data.u64 = <uint64_t>flow | <uint64_t>side
    return epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, flow.sides[side].fd, &event)


cdef void tcp_end(relay_worker *w, tcp_flow *flow, counter outcome) noexcept nogil:
    """Close both sockets, with RST unless both ways have ended, and count why: first, so who sees the end sees that."""
    cdef int i
    flow_retire(w, &flow.item, &flow.rule_link, flow.rule)
    count(flow.rule, outcome, 1)
    for i in range(2):
        if flow.ways[i].pipe != NULL:
            pipe_release(w, flow.ways[i].pipe, flow.ways[i].held == 0)
            flow.ways[i].pipe = NULL
        # A child between fork and exec may hold the socket: close alone would leave it in the epoll set.
        epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, flow.sides[i].fd, NULL)
        if outcome == CLOSED:
            close(flow.sides[i].fd)
        else:
            tcp_close_reset(flow.sides[i].fd)
        flow.sides[i].fd = -1
    if flow.rule.on_end != NULL:
        flow.rule.on_end(w, flow, outcome)


cdef void tcp_close_reset(int fd) noexcept nogil:
    """Close a socket with RST."""
    cdef linger at_once
    at_once.l_onoff = 1
    at_once.l_linger = 0
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))
    close(fd)
