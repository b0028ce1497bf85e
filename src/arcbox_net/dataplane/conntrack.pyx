"""The table of flows: opening, closing and expiring them. Theory of operation: conntrack.pxd."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.prefetch cimport abx_prefetch_to_write
from arcbox_net.dataplane.fast_cache cimport (
    fast_cache_forget, fast_cache_free, fast_cache_init, fast_cache_put,
)
from arcbox_net.dataplane.flow cimport FLOW_NONE, HALF_NONE, half_flow, key_direction, key_protocol
from arcbox_net.dataplane.slot_index cimport (
    SLOT_NONE, slot_first, slot_index_bytes, slot_index_free, slot_index_init, slot_insert, slot_next, slot_remove,
)
from arcbox_net.dataplane.tcp_state cimport (
    TCP_CLOSING, TCP_OPENING, TCP_RESET, TcpState, tcp_state,
)
from arcbox_net.dataplane.timer_wheel cimport WHEEL_SLOTS, wheel_arm, wheel_disarm, wheel_due
from arcbox_net.dataplane.verdict cimport OUTBOUND
from arcbox_net.memory.table cimport table_allocate, table_release
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP
from arcbox_net.wire.tcp cimport PROTOCOL_TCP
from arcbox_net.wire.udp cimport PROTOCOL_UDP


cdef bint conntrack_init(
    conntrack *c, uint32_t flows_max, uint32_t cache_entries, const uint64_t *seed, const flow_timeouts *timeouts
) noexcept nogil:
    """Make a table for 1 to FLOWS_LIMIT flows. False: there is no memory, and nothing to free."""
    cdef uint32_t slot
    cdef bint done
    c.flows_max = flows_max
    c.flows = c.begun = 0
    c.free = FLOW_NONE
    c.seed[0] = seed[0]
    c.seed[1] = seed[1]
    c.timeouts = timeouts[0]
    c.gone = NULL
    c.owner = NULL
    c.halves = <half_flow *>table_allocate(_halves_bytes(c))
    c.cold = <flow_cold *>table_allocate(_cold_bytes(c))
    c.wheel.cold = c.cold
    c.wheel.at_s = 0
    c.wheel.slots = <uint32_t *>table_allocate(WHEEL_SLOTS * sizeof(uint32_t))
    done = slot_index_init(&c.index, 2 * flows_max, 2 * flows_max)
    done = fast_cache_init(&c.cache, cache_entries) and done
    if not done or c.halves == NULL or c.cold == NULL or c.wheel.slots == NULL:
        conntrack_free(c)
        return False
    for slot in range(<uint32_t>WHEEL_SLOTS):
        c.wheel.slots[slot] = FLOW_NONE
    return True


cdef void conntrack_free(conntrack *c) noexcept nogil:
    """Give the memory back. Flows end without a word to *gone*."""
    table_release(c.halves, _halves_bytes(c))
    table_release(c.cold, _cold_bytes(c))
    table_release(c.wheel.slots, WHEEL_SLOTS * sizeof(uint32_t))
    slot_index_free(&c.index)
    fast_cache_free(&c.cache)
    c.halves = NULL
    c.cold = c.wheel.cold = NULL
    c.wheel.slots = NULL


cdef inline size_t _halves_bytes(const conntrack *c) noexcept nogil:
    return 2 * <size_t>c.flows_max * sizeof(half_flow)


cdef inline size_t _cold_bytes(const conntrack *c) noexcept nogil:
    return <size_t>c.flows_max * sizeof(flow_cold)


cdef size_t conntrack_bytes(const conntrack *c) noexcept nogil:
    """All the memory that the table's flows can take, but for the 34 KB that every table has."""
    return _halves_bytes(c) + _cold_bytes(c) + slot_index_bytes(&c.index)


cdef uint32_t conntrack_search(conntrack *c, uint64_t hash, uint64_t key_addresses, uint64_t key_rest) noexcept nogil:
    """The half flow with this key, or HALF_NONE, by the index alone."""
    cdef uint32_t distance = 0
    cdef uint32_t half
    while True:
        half = slot_next(&c.index, hash, &distance)
        if half == SLOT_NONE:
            return HALF_NONE
        if c.halves[half].key_addresses == key_addresses and c.halves[half].key_rest == key_rest:
            if c.cache.asked:
                fast_cache_put(&c.cache, hash, half)
            return half


cdef inline uint64_t _half_hash(const conntrack *c, uint32_t half) noexcept nogil:
    return conntrack_hash(c, c.halves[half].key_addresses, c.halves[half].key_rest)


cdef uint32_t conntrack_open(
    conntrack *c, const half_flow *original, const half_flow *reply, uint32_t mapping, uint32_t now_s
) noexcept nogil:
    """Add a flow, each way's keys, rewrites, deltas and flags from its template: its number, or FLOW_NONE.

    FLOW_NONE: the table is full, or one of the two ways belongs to a flow already.
    """
    cdef uint64_t hash = conntrack_hash(c, original.key_addresses, original.key_rest)
    cdef uint64_t reply_hash = conntrack_hash(c, reply.key_addresses, reply.key_rest)
    cdef uint32_t flow
    conntrack_prefetch(c, hash)
    conntrack_prefetch(c, reply_hash)
    if (
        c.flows == c.flows_max
        or _is_taken(c, hash, original)
        or _is_taken(c, reply_hash, reply)
    ):
        return FLOW_NONE
    flow = c.begun if c.free == FLOW_NONE else c.free
    if not slot_insert(&c.index, hash, 2 * flow):
        return FLOW_NONE
    if not slot_insert(&c.index, reply_hash, 2 * flow + 1):
        slot_remove(&c.index, hash, 2 * flow)
        return FLOW_NONE
    if flow == c.begun:
        c.begun += 1
    else:
        c.free = c.cold[flow].timer_next
    _half_begin(&c.halves[2 * flow], original, now_s)
    _half_begin(&c.halves[2 * flow + 1], reply, now_s)
    c.cold[flow].mapping = mapping
    c.cold[flow].created_s = now_s
    c.flows += 1
    wheel_arm(&c.wheel, flow, conntrack_expires_s(c, flow))
    return flow


cdef inline bint _is_taken(conntrack *c, uint64_t hash, const half_flow *template) noexcept nogil:
    cdef uint32_t half = slot_first(&c.index, hash)
    return conntrack_verify(c, half, hash, template.key_addresses, template.key_rest) != HALF_NONE


cdef inline void _half_begin(half_flow *half, const half_flow *template, uint32_t now_s) noexcept nogil:
    half[0] = template[0]
    half.last_seen_s = now_s
    half.bytes = half.packets = 0
    half.ack_next = half.window_end = 0
    half.tcp = half.window_shift = 0


cdef void conntrack_close(conntrack *c, uint32_t flow) noexcept nogil:
    """End a live flow; *gone* is told."""
    wheel_disarm(&c.wheel, flow)
    _end_flow(c, flow)


cdef void _end_flow(conntrack *c, uint32_t flow) noexcept nogil:
    """End a live flow that is on no slot of the wheel."""
    if c.gone != NULL:
        c.gone(c.owner, flow)
    _end_half(c, 2 * flow)
    _end_half(c, 2 * flow + 1)
    c.cold[flow].timer_previous = FLOW_NONE
    c.cold[flow].timer_next = c.free
    c.free = flow
    c.flows -= 1


cdef inline void _end_half(conntrack *c, uint32_t half) noexcept nogil:
    cdef uint64_t hash = _half_hash(c, half)
    slot_remove(&c.index, hash, half)
    fast_cache_forget(&c.cache, hash, half)
    c.halves[half].key_rest = 0  # no packet's key: KEY_VALID is missing


cdef bint conntrack_is_behind(const conntrack *c, uint32_t now_s) noexcept nogil:
    """Whether `conntrack_expire` has something left to do at *now_s*."""
    return <int32_t>(now_s - c.wheel.at_s) > 0


cdef uint32_t conntrack_expire(conntrack *c, uint32_t now_s, uint32_t budget) noexcept nogil:
    """End the flows that have been idle for longer than their timeout; how many.

    Looks at no more than *budget* flows and goes on from there the next time (`conntrack_is_behind`). However far the
    clock has jumped, no more than one turn of the wheel is made up for. A clock that went back waits.
    """
    cdef uint32_t ended = 0
    cdef uint32_t flow, expires_s
    if not conntrack_is_behind(c, now_s):
        return 0
    if now_s - c.wheel.at_s > WHEEL_SLOTS:
        c.wheel.at_s = now_s - WHEEL_SLOTS
    while c.wheel.at_s != now_s:
        flow = wheel_due(&c.wheel)
        if flow == FLOW_NONE:
            c.wheel.at_s += 1
            continue
        if budget == 0:
            break
        budget -= 1
        _prefetch_flow(c, c.cold[flow].timer_next)
        wheel_disarm(&c.wheel, flow)
        expires_s = conntrack_expires_s(c, flow)
        if <int32_t>(now_s - expires_s) >= 0:
            _end_flow(c, flow)
            ended += 1
        else:
            wheel_arm(&c.wheel, flow, expires_s)
    return ended


cdef inline void _prefetch_flow(const conntrack *c, uint32_t flow) noexcept nogil:
    if flow != FLOW_NONE:
        abx_prefetch_to_write(&c.halves[2 * flow])
        abx_prefetch_to_write(&c.halves[2 * flow + 1])


cdef uint32_t conntrack_expires_s(const conntrack *c, uint32_t flow) noexcept nogil:
    """The first second at which a live flow has been idle for longer than its timeout."""
    cdef const half_flow *original = &c.halves[2 * flow]
    cdef const half_flow *reply = &c.halves[2 * flow + 1]
    cdef uint8_t protocol = key_protocol(original.key_rest)
    cdef bint both = protocol == PROTOCOL_TCP or c.timeouts.inbound_refresh
    cdef uint32_t seen_s, timeout_s
    if not both and key_direction(reply.key_rest) != OUTBOUND:
        seen_s = original.last_seen_s
    elif not both and key_direction(original.key_rest) != OUTBOUND:
        seen_s = reply.last_seen_s
    elif <int32_t>(reply.last_seen_s - original.last_seen_s) > 0:
        seen_s = reply.last_seen_s
    else:
        seen_s = original.last_seen_s
    if protocol == PROTOCOL_TCP:
        timeout_s = _tcp_timeout_s(&c.timeouts, tcp_state(original.tcp, reply.tcp))
    elif protocol == PROTOCOL_ICMP:
        timeout_s = c.timeouts.icmp_s
    elif key_direction(original.key_rest) == OUTBOUND:
        timeout_s = _datagram_timeout_s(&c.timeouts, original.key_rest)
    else:
        timeout_s = _datagram_timeout_s(&c.timeouts, reply.key_rest)
    return seen_s + timeout_s + 1


cdef inline uint32_t _tcp_timeout_s(const flow_timeouts *timeouts, TcpState state) noexcept nogil:
    if state == TCP_OPENING:
        return timeouts.tcp_opening_s
    if state == TCP_CLOSING:
        return timeouts.tcp_closing_s
    if state == TCP_RESET:
        return timeouts.tcp_reset_s
    return timeouts.tcp_established_s


cdef inline uint32_t _datagram_timeout_s(const flow_timeouts *timeouts, uint64_t key_rest) noexcept nogil:
    """UDP's timeout by the destination port of a key of a guest's packets; also that of protocols without ports."""
    cdef uint16_t port_be = <uint16_t>(key_rest >> 16)
    cdef uint32_t i
    if key_protocol(key_rest) == PROTOCOL_UDP:
        for i in range(timeouts.port_count):
            if timeouts.ports[i].port_be == port_be:
                return timeouts.ports[i].timeout_s
    return timeouts.udp_s


cdef void conntrack_rearm(conntrack *c, uint32_t flow) noexcept nogil:
    """For a live flow whose timeout became shorter: have its timer fire in time for that."""
    wheel_disarm(&c.wheel, flow)
    wheel_arm(&c.wheel, flow, conntrack_expires_s(c, flow))


cdef uint32_t conntrack_next(const conntrack *c, uint32_t *cursor, uint32_t budget) noexcept nogil:
    """The first live flow from *cursor* on, which is then past it, after a look at no more than *budget* places.

    FLOW_NONE: none there; there are no more once *cursor* is `c.begun`.
    """
    while budget and cursor[0] < c.begun:
        budget -= 1
        cursor[0] += 1
        if c.cold[cursor[0] - 1].timer_previous != FLOW_NONE:
            return cursor[0] - 1
    return FLOW_NONE
