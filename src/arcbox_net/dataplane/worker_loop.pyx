"""The loop of one worker: serve ready ports, carry out messages, tick, and sleep when there is nothing to do.

*A turn.* First whatever the poller has, and the clock, which is read once. Each ready port gets one burst: rx_burst,
its receiver's burst, tx_flush of the ports that got frames, and rx_release. Then come messages from control, ticks, and
dead ports.

*Bulk.* Large frames from or to a guest at a socket or in shared memory, turn after turn, are let gather for a moment
before the next: there is more to join and to send at once, and such a guest pays much for each time it is woken. The
kernel's own TCP, between a TAP and another interface, would only wait. Nor is an exchange of a few frames held up.

*Sleep.* When the last pause between frames was shorter than `spin_ns`, the next is waited for awake, for that long.
Then every port and the command ring are armed, which each looks again whether there is something after all, and only
then the poller may sleep: until the next tick if a port or a receiver has one, otherwise for ever.
"""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.abi.clock cimport monotonic_ns, nanosleep, timespec
from arcbox_net.abi.poller cimport abx_poller_wait
from arcbox_net.dataplane.port cimport (
    PORT_DEAD, PORT_POLLED, PORT_READY, PORT_TOUCHED, PORT_WORDS, port, port_counters, port_is_ready,
)
from arcbox_net.dataplane.worker_commands cimport commands_take, commands_take_parked, ports_bury, ports_close
from arcbox_net.dataplane.worker_loop cimport POLL_EVENTS_MAX, TICK_NS, loop_note, worker_loop
from arcbox_net.dataplane.worker_watch cimport watch_on_event
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.ring cimport ring_arm

cdef enum:
    NS_PER_MS = 1_000_000
    LARGE_BYTES = 1024  # of a frame, on average of its burst
    BULK_BURST = 2  # what a burst of large frames adds, of which any other takes one away: acknowledgments come back
    BULK_MAX = 16
    BULK_DOZES = 8  # from here on


cdef void loop_run(worker_loop *loop) noexcept nogil:
    """Turn after turn until COMMAND_STOP; then no port is left."""
    cdef bint moved = False
    while not loop.stopping:
        _wait(loop, moved)
        loop.base.now_ns = monotonic_ns()
        moved = _serve_ready(loop)
        commands_take(loop)
        while loop.paused and not loop.stopping:
            commands_take_parked(loop)
        if loop.tickers and loop.base.now_ns >= loop.next_tick_ns:
            _tick(loop)
        _flush_touched(loop)
        if loop.buries:
            ports_bury(loop)
        abx_store_relaxed_u64(&loop.counters.turns, loop.counters.turns + 1)
    ports_close(loop)


cdef bint _serve_ready(worker_loop *loop) noexcept nogil:
    """One burst for each port that is ready now. Whether frames were moved."""
    cdef bint moved = False
    cdef uint64_t bits
    cdef int word
    for word in range(PORT_WORDS):
        bits = loop.base.ready[word]
        loop.base.ready[word] = 0
        while bits:
            moved |= _serve(loop, loop.base.ports[64 * word + abx_trailing_zeros_u64(bits)])
            bits &= bits - 1
    return moved


cdef bint _serve(worker_loop *loop, port *p) noexcept nogil:
    cdef port_counters *counters = p.counters
    cdef uint64_t frame_bytes = 0
    cdef uint32_t count, i
    cdef bint gathers
    if p.flags & PORT_DEAD:
        return False
    p.flags &= ~PORT_READY
    count = p.ops.rx_burst(p, loop.frames, BURST_MAX)
    if count:
        for i in range(count):
            loop.frames[i].from_port = p.number
            frame_bytes += loop.frames[i].size
        abx_store_relaxed_u64(&counters.rx_frames, counters.rx_frames + count)
        abx_store_relaxed_u64(&counters.rx_bytes, counters.rx_bytes + frame_bytes)
        p.sink.burst(p.sink, p, loop.frames, count)
        gathers = _flush_touched(loop) or _gathers(p)
        _count_bulk(loop, gathers and frame_bytes >= <uint64_t>count * LARGE_BYTES)
        p.ops.rx_release(p, loop.frames, count)
        p.flags |= PORT_READY
    loop_note(loop, p)
    return count != 0


cdef inline void _count_bulk(worker_loop *loop, bint large) noexcept nogil:
    if large:
        loop.bulk = min(loop.bulk + BULK_BURST, <uint32_t>BULK_MAX)
    elif loop.bulk:
        loop.bulk -= 1


cdef inline bint _gathers(const port *p) noexcept nogil:
    """Is it a guest's, without offloads as at sockets or with rings in its memory? Or the way to another worker."""
    return p.takes == 0 or (p.flags & PORT_POLLED) != 0


cdef bint _flush_touched(worker_loop *loop) noexcept nogil:
    """Whether one of them gathers."""
    cdef bint gathers = False
    cdef uint64_t bits
    cdef int word
    cdef port *p
    for word in range(PORT_WORDS):
        bits = loop.base.touched[word]
        loop.base.touched[word] = 0
        while bits:
            p = loop.base.ports[64 * word + abx_trailing_zeros_u64(bits)]
            bits &= bits - 1
            p.flags &= ~PORT_TOUCHED
            p.ops.tx_flush(p)
            loop_note(loop, p)
            gathers |= _gathers(p)
    return gathers


cdef void _tick(worker_loop *loop) noexcept nogil:
    cdef uint32_t i
    cdef port *p
    loop.next_tick_ns = loop.base.now_ns + TICK_NS
    for i in range(loop.ports_end):
        p = loop.base.ports[i]
        if p != NULL and p.ops.tick != NULL:
            p.ops.tick(p)
            loop_note(loop, p)
    for i in range(loop.receivers_count):
        if loop.receivers[i].tick != NULL:
            loop.receivers[i].tick(loop.receivers[i], loop.base.now_ns)


cdef void _wait(worker_loop *loop, bint moved) noexcept nogil:
    """Take events, after a sleep if there is nothing else to do."""
    cdef uint64_t now = loop.base.now_ns
    cdef int timeout_ms = 0
    cdef int count, i
    if moved:
        loop.spins = now - loop.active_ns < loop.spin_ns
        loop.active_ns = now
    if not _any_ready(loop):
        if moved and loop.bulk >= BULK_DOZES and loop.doze_ns:
            _doze(loop)
        elif loop.spins and now - loop.active_ns < loop.spin_ns:
            _poll(loop)
        elif _arm(loop):
            timeout_ms = _until_tick_ms(loop)
            abx_store_relaxed_u64(&loop.counters.sleeps, loop.counters.sleeps + 1)
    count = abx_poller_wait(loop.poller, loop.happened, POLL_EVENTS_MAX, timeout_ms)
    for i in range(count):
        watch_on_event(loop, &loop.happened[i])


cdef void _doze(worker_loop *loop) noexcept nogil:
    cdef timespec doze
    doze.tv_sec = 0
    doze.tv_nsec = <long>loop.doze_ns
    nanosleep(&doze, NULL)
    _poll(loop)


cdef bint _any_ready(const worker_loop *loop) noexcept nogil:
    cdef int word
    for word in range(PORT_WORDS):
        if loop.base.ready[word]:
            return True
    return False


cdef void _poll(worker_loop *loop) noexcept nogil:
    """Have those asked again whom it costs nothing."""
    cdef uint32_t number
    cdef port *p
    for number in range(loop.ports_end):
        p = loop.base.ports[number]
        if p != NULL and p.flags & PORT_POLLED:
            port_is_ready(p)


cdef bint _arm(worker_loop *loop) noexcept nogil:
    """Have everything wake this thread. False if something is to be done first."""
    cdef bint idle = True
    cdef uint32_t number
    cdef port *p
    for number in range(loop.ports_end):
        p = loop.base.ports[number]
        if p == NULL:
            continue
        if p.ops.arm != NULL and not p.ops.arm(p):
            p.flags |= PORT_READY
        loop_note(loop, p)
        if p.flags & (PORT_READY | PORT_DEAD):
            idle = False
    return idle and ring_arm(loop.commands)


cdef int _until_tick_ms(const worker_loop *loop) noexcept nogil:
    cdef uint64_t now = monotonic_ns()
    if loop.tickers == 0:
        return -1
    if now >= loop.next_tick_ns:
        return 0
    return <int>((loop.next_tick_ns - now + NS_PER_MS - 1) // NS_PER_MS)
