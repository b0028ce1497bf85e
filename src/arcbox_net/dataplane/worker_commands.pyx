"""Messages from control: ports come and go, the worker pauses and stops, and ports and receivers get theirs.

Each message is answered, after all of it was carried out: by the ring of those who wait, or by that of the events.
"""

from libc.errno cimport EEXIST, EINVAL, ENODEV, EOPNOTSUPP
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.abi.poll cimport POLLIN, poll, pollfd
from arcbox_net.abi.wakeup cimport abx_wakeup_clear
from arcbox_net.dataplane.port cimport (
    MESSAGE_PAYLOAD_BYTES, PORT_DEAD, PORT_MESSAGE_FIRST, PORT_READY, PORT_TOUCHED, PORT_WORDS, PORTS_MAX,
    RECEIVER_MESSAGE_FIRST, port, port_counters, port_message,
)
from arcbox_net.dataplane.worker_loop cimport (
    COMMAND_ADD, COMMAND_PAUSE, COMMAND_REMOVE, COMMAND_RESUME, COMMAND_STOP, COMMANDS_PER_TURN, EVENT_ANSWER,
    EVENT_DEAD, MESSAGE_ITEMS, TICK_NS, TICKET_WAITS, loop_note, port_seat, worker_event, worker_loop,
)
from arcbox_net.dataplane.worker_watch cimport report_put, watch_drop_all
from arcbox_net.memory.ring cimport ring_arm, ring_end, ring_enqueue_burst, ring_peek, ring_release, ring_wake


cdef void commands_take(worker_loop *loop) noexcept nogil:
    """Carry out what has come, up to a turn's share."""
    cdef uint8_t *span
    cdef int _
    for _ in range(COMMANDS_PER_TURN):
        if ring_peek(loop.commands, MESSAGE_ITEMS, &span) < MESSAGE_ITEMS:
            return
        memcpy(&loop.message, span, sizeof(port_message))
        ring_release(loop.commands, MESSAGE_ITEMS)
        abx_store_relaxed_u64(&loop.counters.commands, loop.counters.commands + 1)
        _answer(loop, &loop.message, _carry_out(loop, &loop.message))


cdef void commands_take_parked(worker_loop *loop) noexcept nogil:
    """Wait for the next messages, and do nothing else."""
    cdef pollfd wanted
    if ring_arm(loop.commands):
        wanted.fd = loop.commands.event_fd
        wanted.events = POLLIN
        poll(&wanted, 1, -1)
        abx_wakeup_clear(loop.commands.event_fd)
    commands_take(loop)


cdef void ports_bury(worker_loop *loop) noexcept nogil:
    """Close the ports that died, and tell control; what it has no room for now is told later."""
    cdef uint32_t number
    cdef int word
    cdef uint64_t bits
    loop.buries = False
    for number in range(loop.ports_end):
        if loop.base.ports[number] != NULL and loop.base.ports[number].flags & PORT_DEAD:
            _close(loop, number)
            loop.unreported[number >> 6] |= <uint64_t>1 << (number & 63)
    for word in range(PORT_WORDS):
        bits = loop.unreported[word]
        while bits:
            number = 64 * word + abx_trailing_zeros_u64(bits)
            bits &= bits - 1
            if not report_put(loop, EVENT_DEAD, number, 0):
                loop.buries = True
                return
            loop.unreported[word] &= ~(<uint64_t>1 << (number & 63))


cdef void ports_close(worker_loop *loop) noexcept nogil:
    """Close every port: the thread ends."""
    cdef uint32_t number
    for number in range(loop.ports_end):
        if loop.base.ports[number] != NULL:
            _close(loop, number)


cdef void _answer(worker_loop *loop, const port_message *message, int64_t value) noexcept nogil:
    cdef ring_end *ring = loop.answers if message.ticket & TICKET_WAITS else loop.events
    cdef worker_event event = worker_event(
        kind=EVENT_ANSWER, port=message.port, gap=0, generation=0, gap2=0, value=value, ticket=message.ticket
    )
    ring_enqueue_burst(ring, <const uint8_t *>&event, 1)
    ring_wake(ring)


cdef int _carry_out(worker_loop *loop, const port_message *message) noexcept nogil:
    cdef port *p
    cdef int result
    if message.kind == COMMAND_STOP:
        loop.stopping = True
        return 0
    if message.kind == COMMAND_PAUSE or message.kind == COMMAND_RESUME:
        loop.paused = message.kind == COMMAND_PAUSE
        return 0
    if message.port >= PORTS_MAX or message.size > MESSAGE_PAYLOAD_BYTES:
        return -EINVAL
    if message.kind == COMMAND_ADD:
        return _add(loop, message.port, <const port_seat *>message.payload)
    if message.kind == COMMAND_REMOVE:
        return _remove(loop, message.port)
    p = loop.base.ports[message.port]
    if p == NULL:
        return -ENODEV
    if message.kind < RECEIVER_MESSAGE_FIRST:
        return -EINVAL
    if message.kind < PORT_MESSAGE_FIRST:
        return -EOPNOTSUPP if p.sink.message == NULL else p.sink.message(p.sink, p, message)
    if p.ops.message == NULL:
        return -EOPNOTSUPP
    result = p.ops.message(p, message)
    loop_note(loop, p)
    return result


cdef int _add(worker_loop *loop, uint16_t number, const port_seat *seat) noexcept nogil:
    cdef port *p = seat.port
    cdef int result
    if loop.base.ports[number] != NULL:
        return -EEXIST
    loop.generations[number] = seat.generation
    p.owner = &loop.base
    p.sink = seat.sink
    p.number = number
    p.generation = seat.generation
    p.counters = &loop.counters.ports[number]
    memset(p.counters, 0, sizeof(port_counters))
    abx_store_relaxed_u64(&p.counters.generation, seat.generation)
    p.flags = (p.flags | PORT_READY) & ~(PORT_DEAD | PORT_TOUCHED)  # it may have frames from before
    loop.base.ports[number] = p
    loop.ports_end = max(loop.ports_end, <uint32_t>number + 1)
    _receivers_count(loop)
    result = 0 if p.ops.open == NULL else p.ops.open(p)
    if result < 0:
        _close(loop, number)
        abx_store_relaxed_u64(&loop.counters.ports[number].generation, 0)
        return result
    loop_note(loop, p)
    return 0


cdef int _remove(worker_loop *loop, uint16_t number) noexcept nogil:
    if loop.base.ports[number] != NULL:
        _close(loop, number)
    loop.unreported[number >> 6] &= ~(<uint64_t>1 << (number & 63))
    abx_store_relaxed_u64(&loop.counters.ports[number].generation, 0)
    return 0


cdef void _close(worker_loop *loop, uint16_t number) noexcept nogil:
    """Take the port out of all tables; its counters stay until its number is free."""
    cdef port *p = loop.base.ports[number]
    cdef uint64_t others = ~(<uint64_t>1 << (number & 63))
    loop.base.ports[number] = NULL
    watch_drop_all(loop, number)
    if p.ops.close != NULL:
        p.ops.close(p)
    loop.base.ready[number >> 6] &= others
    loop.base.touched[number >> 6] &= others
    p.owner = NULL
    p.sink = NULL
    p.counters = NULL
    while loop.ports_end > 0 and loop.base.ports[loop.ports_end - 1] == NULL:
        loop.ports_end -= 1
    _receivers_count(loop)


cdef void _receivers_count(worker_loop *loop) noexcept nogil:
    """Find out anew who is there to be ticked."""
    cdef bint ticked = loop.tickers != 0
    cdef uint32_t number, i
    cdef port *p
    loop.tickers = loop.receivers_count = 0
    for number in range(loop.ports_end):
        p = loop.base.ports[number]
        if p == NULL:
            continue
        loop.tickers += p.ops.tick != NULL
        for i in range(loop.receivers_count):
            if loop.receivers[i] == p.sink:
                break
        else:
            loop.receivers[loop.receivers_count] = p.sink
            loop.receivers_count += 1
            loop.tickers += p.sink.tick != NULL
    if not ticked:
        loop.next_tick_ns = loop.base.now_ns + TICK_NS
