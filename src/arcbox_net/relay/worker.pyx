"""A relay thread: waits, hands each event to its protocol, keeps the timers, and answers requests.

A request is owned by the thread that posts it; it waits until the worker has set `done`. Before the worker
runs and after it has ended, a request is carried out at once by the caller.
"""

import signal

from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.epoll cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLET, EPOLLEXCLUSIVE,
    EPOLLIN, epoll_create1, epoll_ctl, epoll_event, eventfd, eventfd_read, eventfd_write,
)
from arcbox_net.abi.files cimport O_CLOEXEC, O_RDONLY, close, open
from arcbox_net.abi.random cimport getrandom
from arcbox_net.abi.threads cimport (
    pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_init, pthread_cond_wait,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from arcbox_net.relay.datagram cimport (
    datagram_describe, datagram_end, datagram_on_event, datagram_on_timeout,
)
from arcbox_net.relay.door cimport door_close, door_on_event, door_open, gate_listener, relay_door
from arcbox_net.relay.echo cimport echo_end, echo_on_event, echo_on_timeout
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport (
    CLOSED, ITEM_DOOR, ITEM_ECHO_ENDPOINT, ITEM_GATE_FLOW, ITEM_GATE_LISTENER, ITEM_TCP_FLOW,
    ITEM_TCP_RULE, ITEM_UDP_ENDPOINT, ITEM_UDP_FLOW, ITEM_UDP_RULE, ITEM_WAKE, REQUEST_ADD, REQUEST_FLOWS,
    REQUEST_REACH, REQUEST_REMOVE, REQUEST_STOP, flow_row, flows_release, gate_flow, item_init, item_queue,
    link_append, link_remove, list_empty, list_reset, relay_item, relay_link, relay_request, relay_rule,
    relay_worker, slabs_free, tcp_flow, timer_list, udp_flow,
)
from arcbox_net.relay.gate cimport gate_describe, gate_on_event, gate_on_timeout
from arcbox_net.relay.offer cimport offer_on_listener
from arcbox_net.relay.pipes cimport pipes_free
from arcbox_net.relay.reach cimport reach_policy
from arcbox_net.relay.tcp cimport (
    tcp_describe, tcp_on_event, tcp_on_listener, tcp_on_timeout, tcp_on_turn, tcp_reset,
)
from arcbox_net.relay.udp cimport (
    udp_describe, udp_end, udp_on_flow, udp_on_listener, udp_on_timeout, udp_prepare,
)
from arcbox_net.relay.waiting cimport relay_waiting, wait_events, waiting_init

cdef enum:
    PAUSE_MS = 100  # a listener's rest after a shortage of descriptors
    WAIT_MS_MAX = 1 << 30
    EXPIRE_MAX = 256  # of one timer list in one turn: thousands may have begun in the same millisecond


cdef int worker_init(relay_worker *w, uint32_t flows_max, bint exclusive) noexcept nogil:
    """Open what the worker needs; 0, or an errno with everything closed again."""
    cdef epoll_event event
    cdef int failure
    memset(w, 0, sizeof(relay_worker))
    w.flows_max = flows_max
    w.exclusive = exclusive
    item_init(&w.wake, ITEM_WAKE)
    list_reset(&w.rules)
    list_reset(&w.ready)
    list_reset(&w.retired)
    list_reset(&w.connecting.head)
    list_reset(&w.offered.head)
    list_reset(&w.idle.head)
    list_reset(&w.udp_idle.head)
    list_reset(&w.dns_idle.head)
    list_reset(&w.echo_idle.head)
    list_reset(&w.paused.head)
    w.paused.timeout_ms = PAUSE_MS
    getrandom(&w.hash_seed, sizeof(w.hash_seed), 0)
    pthread_mutex_init(&w.mutex, NULL)
    pthread_cond_init(&w.answered, NULL)
    w.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    w.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    w.reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC)
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>&w.wake
    if w.reserve_fd < 0 or epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, w.wake_fd, &event) < 0:
        failure = errno
        worker_free(w)
        return failure
    w.now_ms = monotonic_ns() // 1_000_000
    return 0


cdef void worker_run(relay_worker *w) noexcept nogil:
    """Turn after turn until REQUEST_STOP."""
    cdef int n, i
    cdef bint asked
    cdef relay_waiting waiting
    waiting_init(&waiting)
    while not w.stopping:
        n = wait_events(w, &waiting, _wait_ms(w))
        w.moved = 0
        w.now_ms = monotonic_ns() // 1_000_000
        abx_store_relaxed_u64(&w.wakeups, w.wakeups + 1)
        w.turn += 1
        asked = False
        for i in range(n):
            if w.events[i].data.u64 == <uint64_t>&w.wake:
                asked = True
            else:
                _on_event(w, &w.events[i])
        _run_ready(w)
        _expire(w, &w.connecting)
        _expire(w, &w.offered)
        _expire(w, &w.idle)
        _expire(w, &w.udp_idle)
        _expire(w, &w.dns_idle)
        _expire(w, &w.echo_idle)
        _expire(w, &w.paused)
        if asked:
            _answer(w)
        flows_release(w)


cdef int worker_serve(relay_worker *w) except -1:
    """`worker_run` in a thread of Python's, which is good for nothing else then."""
    # Also keeps SIGPIPE from ending the process: splice has no MSG_NOSIGNAL.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with nogil:
        worker_run(w)
    return 0


cdef size_t worker_flows(relay_worker *w, flow_row *rows, size_t rows_max) noexcept nogil:
    """Have the worker describe its flows in *rows*; how many there are."""
    cdef relay_request request
    memset(&request, 0, sizeof(request))
    request.kind = REQUEST_FLOWS
    request.rows = rows
    request.rows_max = rows_max
    worker_post(w, &request)
    worker_wait(w, &request)
    return request.count


cdef void worker_post(relay_worker *w, relay_request *request) noexcept nogil:
    """Hand *request* to the worker."""
    request.next = NULL
    request.done = 0
    pthread_mutex_lock(&w.mutex)
    if not w.running:
        _carry_out(w, request)
        flows_release(w)
        request.done = 1
    elif w.requests == NULL:
        w.requests = w.requests_last = request
    else:
        w.requests_last.next = request
        w.requests_last = request
    pthread_mutex_unlock(&w.mutex)
    eventfd_write(w.wake_fd, 1)


cdef void worker_wait(relay_worker *w, relay_request *request) noexcept nogil:
    """Until *request* is done."""
    pthread_mutex_lock(&w.mutex)
    while not request.done:
        pthread_cond_wait(&w.answered, &w.mutex)
    pthread_mutex_unlock(&w.mutex)


cdef void worker_free(relay_worker *w) noexcept nogil:
    """End every flow and give everything back. The worker runs no more; rules are the caller's."""
    cdef relay_rule *rule
    while not list_empty(&w.rules):
        rule = <relay_rule *>w.rules.next.item
        _drop_rule(w, rule)
    flows_release(w)
    slabs_free(w)
    pipes_free(w)
    free(w.buckets)
    free(w.batch)
    free(w.peek)
    w.buckets = NULL
    w.batch = NULL
    w.peek = NULL
    close(w.epoll_fd)  # close(-1) is a harmless EBADF, after a start that failed half-way
    close(w.wake_fd)
    close(w.reserve_fd)
    w.epoll_fd = w.wake_fd = w.reserve_fd = -1
    pthread_cond_destroy(&w.answered)
    pthread_mutex_destroy(&w.mutex)


cdef void _on_event(relay_worker *w, const epoll_event *event) noexcept nogil:
    cdef relay_item *item = <relay_item *>(event.data.u64 & ~<uint64_t>1)
    if item.retired:
        return
    if item.kind == ITEM_TCP_FLOW:
        tcp_on_event(w, <tcp_flow *>item, <int>(event.data.u64 & 1), event.events)
    elif item.kind == ITEM_GATE_FLOW:
        gate_on_event(w, <gate_flow *>item, <int>(event.data.u64 & 1), event.events)
    elif item.kind == ITEM_UDP_ENDPOINT:
        datagram_on_event(w, <relay_endpoint *>item, event.events)
    elif item.kind == ITEM_ECHO_ENDPOINT:
        echo_on_event(w, <relay_endpoint *>item, event.events)
    elif item.kind == ITEM_UDP_FLOW:
        udp_on_flow(w, <udp_flow *>item)
    elif item.kind == ITEM_TCP_RULE:
        tcp_on_listener(w, <relay_rule *>item)
    elif item.kind == ITEM_UDP_RULE:
        udp_on_listener(w, <relay_rule *>item)
    elif item.kind == ITEM_DOOR:
        door_on_event(w, <relay_door *>item)
    elif item.kind == ITEM_GATE_LISTENER:
        offer_on_listener(w, <gate_listener *>item)


cdef void _run_ready(relay_worker *w) noexcept nogil:
    """One more turn for each item that was ready when this began."""
    cdef relay_link waiting
    cdef relay_item *item
    if list_empty(&w.ready):
        return
    waiting = w.ready  # the whole list moves over; what becomes ready meanwhile waits for the next turn
    waiting.next.prev = &waiting
    waiting.prev.next = &waiting
    list_reset(&w.ready)
    while not list_empty(&waiting):
        item = waiting.next.item
        link_remove(&item.ready)
        if item.kind == ITEM_TCP_FLOW or item.kind == ITEM_GATE_FLOW:
            tcp_on_turn(w, <tcp_flow *>item)
        elif item.kind == ITEM_TCP_RULE:
            tcp_on_listener(w, <relay_rule *>item)
        elif item.kind == ITEM_GATE_LISTENER:
            offer_on_listener(w, <gate_listener *>item)


cdef void _expire(relay_worker *w, timer_list *timers) noexcept nogil:
    cdef relay_item *item
    cdef int _turn
    for _turn in range(EXPIRE_MAX):
        if list_empty(&timers.head) or not timers.timeout_ms:
            return
        item = timers.head.next.item
        if w.now_ms - item.since_ms < timers.timeout_ms:
            return
        if item.kind == ITEM_TCP_FLOW:
            tcp_on_timeout(w, <tcp_flow *>item)
        elif item.kind == ITEM_GATE_FLOW:
            gate_on_timeout(w, <gate_flow *>item)
        elif item.kind == ITEM_UDP_ENDPOINT:
            datagram_on_timeout(w, <relay_endpoint *>item)
        elif item.kind == ITEM_ECHO_ENDPOINT:
            echo_on_timeout(w, <relay_endpoint *>item)
        elif item.kind == ITEM_UDP_FLOW:
            udp_on_timeout(w, <udp_flow *>item)
        else:
            link_remove(&item.timer)
            item.timers = NULL
            item_queue(w, item)


cdef int _wait_ms(relay_worker *w) noexcept nogil:
    """Until the earliest timer, 0 when an item is ready, -1 when there is nothing to wait for."""
    cdef int wait = -1
    if not list_empty(&w.ready):
        return 0
    wait = _sooner(w, &w.connecting, wait)
    wait = _sooner(w, &w.offered, wait)
    wait = _sooner(w, &w.idle, wait)
    wait = _sooner(w, &w.udp_idle, wait)
    wait = _sooner(w, &w.dns_idle, wait)
    wait = _sooner(w, &w.echo_idle, wait)
    return _sooner(w, &w.paused, wait)


cdef int _sooner(relay_worker *w, timer_list *timers, int wait) noexcept nogil:
    cdef uint64_t passed
    cdef int left
    if list_empty(&timers.head) or not timers.timeout_ms:
        return wait
    passed = w.now_ms - timers.head.next.item.since_ms
    left = <int>min(timers.timeout_ms - passed, <uint64_t>WAIT_MS_MAX) if passed < timers.timeout_ms else 0
    return left if wait < 0 or left < wait else wait


cdef void _answer(relay_worker *w) noexcept nogil:
    """Carry out what was posted."""
    cdef uint64_t value
    cdef relay_request *request
    eventfd_read(w.wake_fd, &value)
    pthread_mutex_lock(&w.mutex)
    while w.requests != NULL:
        request = w.requests
        w.requests = request.next
        _carry_out(w, request)
        request.done = 1
    w.requests_last = NULL
    pthread_cond_broadcast(&w.answered)
    pthread_mutex_unlock(&w.mutex)


cdef void _carry_out(relay_worker *w, relay_request *request) noexcept nogil:
    cdef size_t i = 0
    if request.kind == REQUEST_ADD:
        for i in range(request.count):
            request.failure = _add_rule(w, request.rules[i])
            if request.failure:
                break
        if request.failure:  # all or none
            while i > 0:
                i -= 1
                _drop_rule(w, request.rules[i])
    elif request.kind == REQUEST_REMOVE:
        for i in range(request.count):
            _drop_rule(w, request.rules[i])
    elif request.kind == REQUEST_FLOWS:
        _list_flows(w, request)
    elif request.kind == REQUEST_REACH:
        _change_reach(<relay_door *>request.rules[0], request)
    elif request.kind == REQUEST_STOP:
        w.stopping = 1
        w.running = 0


cdef void _change_reach(relay_door *door, relay_request *request) noexcept nogil:
    cdef reach_policy *old = door.reach
    door.reach = <reach_policy *>request.policy
    request.policy = old


cdef int _add_rule(relay_worker *w, relay_rule *rule) noexcept nogil:
    cdef epoll_event event
    cdef bint tcp = rule.item.kind == ITEM_TCP_RULE
    if rule.item.kind == ITEM_DOOR:
        return door_open(w, <relay_door *>rule)
    if not tcp and udp_prepare(w, rule) < 0:
        return ENOMEM
    event.events = EPOLLIN
    if tcp:
        event.events |= EPOLLET
        if w.exclusive:
            event.events |= EPOLLEXCLUSIVE
    event.data.u64 = <uint64_t>rule
    if epoll_ctl(w.epoll_fd, EPOLL_CTL_ADD, rule.fd, &event) < 0:
        return errno
    link_append(&w.rules, &rule.rule_link)
    return 0


cdef void _drop_rule(relay_worker *w, relay_rule *rule) noexcept nogil:
    """Stop listening for *rule* and end its flows."""
    cdef relay_item *item
    if rule.item.kind == ITEM_DOOR:
        door_close(w, <relay_door *>rule)
    epoll_ctl(w.epoll_fd, EPOLL_CTL_DEL, rule.fd, NULL)
    link_remove(&rule.rule_link)
    link_remove(&rule.item.ready)
    link_remove(&rule.item.timer)
    while not list_empty(&rule.flows):
        item = rule.flows.next.item
        if item.kind == ITEM_TCP_FLOW or item.kind == ITEM_GATE_FLOW:
            tcp_reset(w, <tcp_flow *>item)
        elif item.kind == ITEM_UDP_ENDPOINT:
            datagram_end(w, <relay_endpoint *>item)
        elif item.kind == ITEM_ECHO_ENDPOINT:
            echo_end(w, <relay_endpoint *>item)
        else:
            udp_end(w, <udp_flow *>item, CLOSED)


cdef void _list_flows(relay_worker *w, relay_request *request) noexcept nogil:
    """Describe flows until the caller's rows are full."""
    cdef relay_link *at = w.rules.next
    cdef relay_link *inner
    cdef relay_rule *rule
    cdef relay_item *item
    cdef flow_row *row
    request.count = 0
    while at != &w.rules:
        rule = <relay_rule *>at.item
        at = at.next
        if rule.item.kind == ITEM_DOOR:
            _list_closed(w, <relay_door *>rule, request)
        inner = rule.flows.next
        while inner != &rule.flows and request.count < request.rows_max:
            item = inner.item
            inner = inner.next
            row = &request.rows[request.count]
            request.count += 1
            memset(row, 0, sizeof(flow_row))
            row.rule_id = rule.id
            row.protocol = item.kind
            row.idle_ms = w.now_ms - item.since_ms
            if item.kind == ITEM_TCP_FLOW:
                tcp_describe(w, <tcp_flow *>item, row)
            elif item.kind == ITEM_GATE_FLOW:
                gate_describe(w, <gate_flow *>item, row)
            elif item.kind == ITEM_UDP_ENDPOINT or item.kind == ITEM_ECHO_ENDPOINT:
                datagram_describe(w, <relay_endpoint *>item, row)
            else:
                udp_describe(w, <udp_flow *>item, row)


cdef void _list_closed(relay_worker *w, relay_door *door, relay_request *request) noexcept nogil:
    """The last flows that ended, the latest first."""
    cdef uint64_t i, n = min(door.closed_count, <uint64_t>door.closed_max)
    for i in range(n):
        if request.count >= request.rows_max:
            return
        request.rows[request.count] = door.closed[(door.closed_count - 1 - i) % door.closed_max]
        request.rows[request.count].idle_ms = w.now_ms - request.rows[request.count].ended_ms
        request.count += 1
