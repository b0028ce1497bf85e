"""Descriptors that ports have watched, and what ports report to control.

An event says which port, which of its watches, and the watch's serial number: one that was ended or replaced in the
same turn is told apart. A port may leave a hang-up or an error as it is, and a level-triggered watch would then be
reported again at once, for ever: it is made edge-triggered after the first.
"""

from libc.errno cimport ENOSPC, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.poller cimport (
    POLL_BROKEN, POLL_EDGE, abx_poll_event, abx_poll_events, abx_poll_token, abx_poller_change, abx_poller_forget,
    abx_poller_watch,
)
from arcbox_net.abi.wakeup cimport abx_wakeup_heard
from arcbox_net.dataplane.port cimport PORT_WATCHES_MAX, PORTS_MAX, port
from arcbox_net.dataplane.worker_loop cimport POSTS_MAX, SOON_NS, loop_note, port_watch, worker_event, worker_loop
from arcbox_net.memory.ring cimport ring_enqueue_burst, ring_room, ring_wake


cdef int worker_watch(port *p, int fd, uint32_t events, uint32_t tag) noexcept nogil:
    """Call the port's `event` with *tag* when *fd* has *events* (POLL_READ …, edge-triggered with POLL_EDGE).

    0, or a negative errno.
    """
    cdef worker_loop *loop = <worker_loop *>p.owner
    cdef port_watch *watch
    cdef int slot
    for slot in range(PORT_WATCHES_MAX):
        watch = &loop.watches[p.number].of[slot]
        if watch.serial == 0:
            break
    else:
        return -ENOSPC
    loop.serial += 1
    if loop.serial == 0:
        loop.serial = 1
    watch.fd = fd
    watch.tag = tag
    watch.events = events
    watch.serial = loop.serial
    if abx_poller_watch(loop.poller, fd, events, _token(watch, p.number, slot)) < 0:
        watch.serial = 0
        return -errno
    return 0


cdef void worker_unwatch(port *p, int fd) noexcept nogil:
    """No longer watch *fd*; to be called before it is closed. Nothing happens if it is not watched."""
    cdef worker_loop *loop = <worker_loop *>p.owner
    cdef int i
    for i in range(PORT_WATCHES_MAX):
        if loop.watches[p.number].of[i].serial and loop.watches[p.number].of[i].fd == fd:
            _drop(loop, &loop.watches[p.number].of[i])
            return


cdef void worker_tick_soon(port *p) noexcept nogil:
    """Have the next tick in SOON_NS: for a port that waits for something of which no event tells."""
    cdef worker_loop *loop = <worker_loop *>p.owner
    loop.next_tick_ns = min(loop.next_tick_ns, p.owner.now_ns + SOON_NS)


cdef void worker_report(port *p, uint32_t kind, int64_t value) noexcept nogil:
    """Tell control of something that happened to the port (its peer went away, a message's late answer).

    A report for which control left no room is lost, and counted.
    """
    cdef worker_loop *loop = <worker_loop *>p.owner
    if not report_put(loop, kind, p.number, value):
        abx_store_relaxed_u64(&loop.counters.events_lost, loop.counters.events_lost + 1)


cdef bint report_put(worker_loop *loop, uint32_t kind, uint16_t number, int64_t value) noexcept nogil:
    """Whether there was room for it. Answers need none: room for as many as there can be is left."""
    cdef worker_event event
    if ring_room(loop.events, POSTS_MAX + 1) <= POSTS_MAX:
        return False
    event = worker_event(
        kind=kind, port=number, gap=0, generation=loop.generations[number], gap2=0, value=value, ticket=0
    )
    ring_enqueue_burst(loop.events, <const uint8_t *>&event, 1)
    ring_wake(loop.events)
    return True


cdef void watch_on_event(worker_loop *loop, const abx_poll_event *event) noexcept nogil:
    cdef uint64_t token = abx_poll_token(event)
    cdef uint32_t events = abx_poll_events(event)
    cdef uint16_t number = <uint16_t>token
    cdef uint16_t slot = <uint16_t>(token >> 16)
    cdef uint32_t serial = <uint32_t>(token >> 32)
    cdef port_watch *watch
    cdef port *p
    if number >= PORTS_MAX:  # the command ring's: the thread is awake, that was all
        abx_wakeup_heard(loop.commands.event_fd)
        return
    watch = &loop.watches[number].of[slot]
    if watch.serial != serial:
        return
    p = loop.base.ports[number]
    abx_store_relaxed_u64(&p.counters.wakeups, p.counters.wakeups + 1)
    p.ops.event(p, watch.tag, events)
    if events & POLL_BROKEN and watch.serial == serial and not watch.events & POLL_EDGE:
        watch.events |= POLL_EDGE
        abx_poller_change(loop.poller, watch.fd, watch.events, token)
    loop_note(loop, p)


cdef void watch_drop_all(worker_loop *loop, uint16_t number) noexcept nogil:
    cdef int i
    for i in range(PORT_WATCHES_MAX):
        if loop.watches[number].of[i].serial:
            _drop(loop, &loop.watches[number].of[i])


cdef void _drop(worker_loop *loop, port_watch *watch) noexcept nogil:
    abx_poller_forget(loop.poller, watch.fd)
    watch.serial = 0


cdef inline uint64_t _token(const port_watch *watch, uint16_t number, int slot) noexcept nogil:
    return <uint64_t>watch.serial << 32 | <uint32_t>slot << 16 | number
