"""What one relay thread keeps: rules, flows, timer lists and counters, and the inline steps on them. No I/O.

Theory of operation
-------------------
A worker is one thread with one epoll set; everything reachable from its `relay_worker` is touched by that
thread only. The exceptions are the request list (under `mutex`) and the counters (relaxed atomics, one
writer).

An item is what epoll, the ready list and the timers refer to: a rule (its listening socket) or a flow.
Epoll's 64 bits are the item's address with the side (0 client, 1 target) in bit 0.

One turn of the worker: events, then the ready list (items whose budget ran out in the turn before), then
timers, then requests, and only then are retired items freed: an event of the same batch may still point at
one.

Each timer list has one constant timeout and is kept in order of `since_ms`, so only its head needs a look,
and an idle flow costs no wake-up.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.epoll cimport epoll_event
from arcbox_net.abi.socket cimport iovec, mmsghdr, sockaddr_in6
from arcbox_net.abi.threads cimport pthread_cond_t, pthread_mutex_t

cdef enum:
    CLIENT = 0  # the side that connected to us
    TARGET = 1  # the side we dialled
    EVENTS_MAX = 128
    SLAB_ENTRIES = 64
    ADDRESS_BYTES = 16  # IPv4 addresses are held as ::ffff:a.b.c.d
    SYN_FRAME_BYTES = 172  # virtio_net_hdr, IP header with 60 bytes of IPv6 extensions, TCP header
    UDP_BURST_MAX = 32
    UDP_BYTES_MAX = 65536
    CONTROL_BYTES = 64
    GUEST_SUBNETS_MAX = 4
    DATAGRAM_WORTH_BYTES = 32768  # of a stream: so many keep a thread as busy as one datagram does
    COPY_BYTES = 65536  # the copy buffer; small enough to stay in the second-level cache

cdef enum item_kind:
    ITEM_WAKE
    ITEM_TCP_RULE
    ITEM_TCP_FLOW
    ITEM_UDP_RULE
    ITEM_UDP_FLOW
    ITEM_DOOR  # the TUN of an EgressRelay's worker
    ITEM_GATE_LISTENER
    ITEM_GATE_FLOW
    ITEM_UDP_ENDPOINT
    ITEM_ECHO_ENDPOINT

cdef enum tcp_state:
    TCP_CONNECTING
    TCP_OPEN
    TCP_OFFERED  # the target answered, and the guest's SYN was given to the kernel

cdef enum counter:  # the order is that of COUNTERS in splice.pyx
    ACCEPTED
    ACTIVE
    CLOSED
    RESET
    REFUSED_LIMIT
    REFUSED_FDS
    CONNECT_FAILED
    CONNECT_TIMEOUT
    IDLE_TIMEOUT
    ABANDONED  # the guest's handshake never ended
    BYTES_IN
    BYTES_OUT
    DATAGRAMS_IN
    DATAGRAMS_OUT
    DROPPED
    DIALS_AS_CLIENT
    DIALS_AS_GATEWAY
    COUNTER_COUNT

cdef struct relay_item
cdef struct relay_rule
cdef struct relay_worker
cdef struct tcp_flow

cdef struct relay_link:
    relay_link *prev
    relay_link *next
    relay_item *item

cdef struct timer_list:
    relay_link head
    uint64_t timeout_ms  # 0: never

cdef struct relay_item:
    uint8_t kind
    uint8_t retired
    uint64_t since_ms
    timer_list *timers  # the list `timer` is on
    relay_link timer
    relay_link ready

cdef struct relay_rule:
    relay_item item
    uint64_t id
    int fd
    uint8_t wildcard  # bound to no address: replies must name the one the client used
    uint8_t self_dial  # the target is on loopback, where a dial can meet itself
    uint8_t transparent  # dial from the client's own address where that can be
    uint8_t inside  # dial in another network namespace
    uint32_t target_size
    sockaddr_in6 target  # or a sockaddr_in, as its family says
    relay_link rule_link
    relay_link flows
    void (*on_end)(relay_worker *w, tcp_flow *flow, int outcome) noexcept nogil  # or NULL
    uint64_t counters[COUNTER_COUNT]

cdef struct guest_subnet:
    int family
    uint8_t address[16]
    uint32_t prefix_length

cdef struct relay_pipe:
    int read_fd
    int write_fd
    uint32_t size
    relay_pipe *next

cdef struct tcp_side:
    int fd
    uint8_t readable  # until a read says otherwise
    uint8_t writable
    uint8_t ended  # FIN is in the queue: a short read is not the last one
    uint8_t urgent  # an urgent mark makes reads short
    uint8_t failed

cdef struct tcp_way:
    relay_pipe *pipe
    uint32_t held  # bytes in the pipe
    uint8_t bulk
    uint8_t eof
    uint8_t fin_sent
    uint8_t corked  # the sink holds a tail back, for the FIN that is expected right after it
    uint64_t moved

cdef struct tcp_flow:
    relay_item item
    relay_link rule_link
    relay_rule *rule
    uint64_t opened_ms
    uint8_t state
    tcp_side sides[2]
    tcp_way ways[2]  # ways[i] carries from sides[i] to the other side

cdef struct udp_flow:
    relay_item item
    relay_link rule_link
    relay_rule *rule
    uint64_t opened_ms
    int fd
    uint32_t hash
    udp_flow *next  # in its bucket
    sockaddr_in6 client
    sockaddr_in6 local  # the address of ours the client sent to; family 0 on a specific bind
    uint64_t moved[2]

cdef struct relay_guest:
    relay_link idle  # first: on the table's list while nothing is held
    relay_guest *next  # in its bucket
    uint8_t address[ADDRESS_BYTES]
    uint32_t held  # how many things refer to it
    uint32_t flows
    uint32_t dials
    uint32_t endpoints  # of UDP
    uint32_t echoes
    uint32_t answers  # ICMP errors since answers_ms
    uint64_t answers_ms

cdef struct gate_syn:
    gate_syn *next
    uint32_t isn
    uint32_t size
    uint8_t frame[SYN_FRAME_BYTES]

cdef struct gate_flow:
    tcp_flow tcp  # first
    gate_flow *next  # in its bucket
    relay_guest *guest
    gate_syn *syn  # until the guest's connection was accepted
    uint32_t hash
    int failure  # the errno of a failed dial
    uint8_t version
    uint8_t watched  # the target's socket is in the epoll set
    uint8_t near  # the target is on this machine, and paces as the host's default does
    uint16_t src_port
    uint16_t dst_port
    uint8_t src[ADDRESS_BYTES]
    uint8_t dst[ADDRESS_BYTES]

cdef union flow_entry:
    relay_item item
    flow_entry *next
    tcp_flow tcp
    udp_flow udp
    gate_flow gate

cdef struct flow_slab:
    flow_slab *next
    flow_entry entries[SLAB_ENTRIES]

cdef struct udp_batch:
    mmsghdr messages[UDP_BURST_MAX]
    mmsghdr outgoing[UDP_BURST_MAX]
    iovec vectors[UDP_BURST_MAX]
    sockaddr_in6 names[UDP_BURST_MAX]
    uint8_t controls[UDP_BURST_MAX][CONTROL_BYTES]
    uint8_t payloads[UDP_BURST_MAX][UDP_BYTES_MAX]

cdef struct flow_row:
    uint64_t rule_id
    uint8_t protocol
    uint8_t state
    uint8_t half_closed
    uint64_t age_ms
    uint64_t idle_ms
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t held
    uint64_t ended_ms  # when the flow ended, 0 while it lives
    uint8_t outcome  # of one that ended: a counter
    int failure  # and the errno of its dial
    sockaddr_in6 client
    sockaddr_in6 peer  # of a flow through a door; family 0 where there is no single one

cdef enum request_kind:
    REQUEST_ADD
    REQUEST_REMOVE
    REQUEST_FLOWS
    REQUEST_REACH
    REQUEST_STOP

cdef struct relay_request:
    int kind
    int done
    int failure  # an errno
    relay_rule **rules
    size_t count
    flow_row *rows
    size_t rows_max
    void *policy  # the reach_policy that takes effect; afterwards the one that it replaced
    relay_request *next

cdef struct relay_worker:
    relay_item wake
    int epoll_fd
    int wake_fd
    int reserve_fd  # given up for a moment when descriptors run out
    uint8_t exclusive  # listeners are shared with other workers
    uint8_t guest_subnet_count
    guest_subnet guest_subnets[GUEST_SUBNETS_MAX]  # where no client's address is used for a dial
    uint8_t stopping
    uint64_t now_ms
    uint64_t wakeups
    uint64_t moved  # bytes, in this turn; a datagram counts as DATAGRAM_WORTH_BYTES
    uint64_t turn
    uint64_t hash_seed
    uint32_t flows_max
    uint32_t flow_count
    flow_entry *free_flows
    flow_slab *slabs
    relay_link rules
    relay_link ready
    relay_link retired
    timer_list connecting
    timer_list offered
    timer_list idle
    timer_list udp_idle
    timer_list dns_idle  # UDP endpoints that only ask name servers
    timer_list echo_idle
    timer_list paused
    relay_pipe *pipes  # idle ones
    uint32_t pipe_count
    uint32_t bucket_mask
    udp_flow **buckets
    udp_batch *batch
    pthread_mutex_t mutex
    pthread_cond_t answered
    relay_request *requests
    relay_request *requests_last
    uint8_t running
    uint8_t *peek  # PEEK_BYTES, made when pipes first run out
    uint8_t copy[COPY_BYTES]
    epoll_event events[EVENTS_MAX]


cdef inline void list_reset(relay_link *head) noexcept nogil:
    head.prev = head
    head.next = head
    head.item = NULL


cdef inline bint list_empty(const relay_link *head) noexcept nogil:
    return head.next == head


cdef inline void link_append(relay_link *head, relay_link *link) noexcept nogil:
    link.prev = head.prev
    link.next = head
    head.prev.next = link
    head.prev = link


cdef inline void link_remove(relay_link *link) noexcept nogil:
    """Take *link* off its list; nothing happens when it is on none."""
    if link.next != NULL:
        link.prev.next = link.next
        link.next.prev = link.prev
        link.next = NULL
        link.prev = NULL


cdef inline void item_init(relay_item *item, uint8_t kind) noexcept nogil:
    memset(item, 0, sizeof(relay_item))
    item.kind = kind
    item.timer.item = item
    item.ready.item = item


cdef inline void item_time(relay_worker *w, relay_item *item, timer_list *timers) noexcept nogil:
    """(Re)start the item's timer on *timers*."""
    link_remove(&item.timer)
    item.timers = timers
    item.since_ms = w.now_ms
    link_append(&timers.head, &item.timer)


cdef inline void item_touch(relay_worker *w, relay_item *item) noexcept nogil:
    """Restart the item's timer on the list it is on."""
    if item.since_ms != w.now_ms:
        item.since_ms = w.now_ms
        link_remove(&item.timer)
        link_append(&item.timers.head, &item.timer)


cdef inline void item_queue(relay_worker *w, relay_item *item) noexcept nogil:
    """Give the item another turn before the next wait."""
    if item.ready.next == NULL:
        link_append(&w.ready, &item.ready)


cdef inline void count(relay_rule *rule, int which, uint64_t amount) noexcept nogil:
    abx_store_relaxed_u64(&rule.counters[which], rule.counters[which] + amount)


cdef inline flow_entry *flow_acquire(relay_worker *w, relay_rule *rule, uint8_t kind) noexcept nogil:
    """A zeroed flow of *rule*, or NULL when `flows_max` flows live or memory is short."""
    cdef flow_slab *slab
    cdef flow_entry *entry
    cdef int i
    if w.flow_count >= w.flows_max:
        return NULL
    if w.free_flows == NULL:
        slab = <flow_slab *>calloc(1, sizeof(flow_slab))
        if slab == NULL:
            return NULL
        slab.next = w.slabs
        w.slabs = slab
        for i in range(SLAB_ENTRIES):
            slab.entries[i].next = w.free_flows
            w.free_flows = &slab.entries[i]
    entry = w.free_flows
    w.free_flows = entry.next
    memset(entry, 0, sizeof(flow_entry))
    item_init(&entry.item, kind)
    w.flow_count += 1
    count(rule, ACCEPTED, 1)
    count(rule, ACTIVE, 1)
    return entry


cdef inline void flow_retire(
    relay_worker *w, relay_item *item, relay_link *rule_link, relay_rule *rule
) noexcept nogil:
    """Take the flow off every list; its memory goes back at the end of the turn."""
    item.retired = 1
    link_remove(&item.timer)
    link_remove(&item.ready)
    link_remove(rule_link)
    link_append(&w.retired, &item.ready)
    count(rule, ACTIVE, <uint64_t>-1)


cdef inline void flows_release(relay_worker *w) noexcept nogil:
    """Free what was retired in this turn."""
    cdef relay_item *item
    cdef flow_entry *entry
    while not list_empty(&w.retired):
        item = w.retired.next.item
        link_remove(&item.ready)
        entry = <flow_entry *>item
        entry.next = w.free_flows
        w.free_flows = entry
        w.flow_count -= 1


cdef inline void slabs_free(relay_worker *w) noexcept nogil:
    cdef flow_slab *slab
    while w.slabs != NULL:
        slab = w.slabs
        w.slabs = slab.next
        free(slab)
    w.free_flows = NULL
