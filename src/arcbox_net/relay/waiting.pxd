"""How a relay thread waits for its next events, besides sleeping in epoll_wait.

Theory of operation
-------------------
After a turn that moved much, the thread *dozes* on a timer first: who waits in epoll_wait is woken for each 64 KiB,
by a sender that pays for it; a moment later there is a pipe full of them. While that goes on it is a batch thread.

In an exchange, each wait is about as short as it takes to put a core to sleep and to wake it again. After some such
waits the thread *looks* again and again before it sleeps, for as long as a wake-up takes. Each time it gives way to
whoever waits for its core, as the peers do whom it has just written to. One look in vain, and only further short waits
begin it anew, so an idle relay does nothing. Who keeps the core for longer is no peer: then there is no looking for a
while.

Decision 0005 has the numbers.
"""

from libc.stdint cimport uint64_t

from arcbox_net.abi.clock cimport monotonic_ns, nanosleep, timespec
from arcbox_net.abi.epoll cimport epoll_wait
from arcbox_net.abi.scheduling cimport (
    PR_SET_TIMERSLACK, SCHED_BATCH, SCHED_OTHER, prctl, sched_getscheduler, sched_param, sched_setscheduler,
    sched_yield,
)
from arcbox_net.relay.flow cimport EVENTS_MAX, list_empty, relay_worker

cdef enum:
    BULK_TURN_BYTES = 131072  # a turn that moved this much is followed by a doze
    AWAKE_TURNS = 16  # without a doze, and bulk has ended
    DOZE_NS = 50000
    DOZE_SLACK_NS = 1000  # the kernel's default would double the doze
    SHORT_WAIT_NS = 100000
    SHORT_WAITS = 8  # in a row, and the thread looks
    LOOK_NS = 50000
    YIELD_NS_MAX = 200000  # of one that gives way to a peer
    NO_LOOK_NS = 100000000

cdef struct relay_waiting:
    int turns_awake  # since the last doze, up to AWAKE_TURNS
    int short_waits  # in a row, up to SHORT_WAITS
    uint64_t no_look_until_ns


cdef inline void waiting_init(relay_waiting *state) noexcept nogil:
    """To be called in the thread that waits."""
    state.turns_awake = AWAKE_TURNS
    state.short_waits = 0
    state.no_look_until_ns = 0
    prctl(PR_SET_TIMERSLACK, DOZE_SLACK_NS)


cdef inline int wait_events(relay_worker *w, relay_waiting *state, int timeout_ms) noexcept nogil:
    """Fill `w.events`, after at most *timeout_ms* (-1: for ever) and a doze; how many there are."""
    cdef bint bulk = w.moved >= BULK_TURN_BYTES and list_empty(&w.ready)
    cdef uint64_t began
    cdef int n = 0
    if bulk:
        _doze(state)
    elif state.turns_awake < AWAKE_TURNS:
        state.turns_awake += 1
        if state.turns_awake == AWAKE_TURNS:
            _schedule(SCHED_OTHER)
    if timeout_ms == 0 or bulk:
        return epoll_wait(w.epoll_fd, w.events, EVENTS_MAX, timeout_ms)
    began = monotonic_ns()
    if waiting_looks(state, began):
        n = _look(w, state, began)
    if n == 0:
        n = epoll_wait(w.epoll_fd, w.events, EVENTS_MAX, timeout_ms)
        waiting_waited(state, monotonic_ns() - began)
    return n


cdef inline bint waiting_looks(const relay_waiting *state, uint64_t now_ns) noexcept nogil:
    """Whether to look for events before sleeping."""
    return (
        state.short_waits == SHORT_WAITS
        and state.turns_awake == AWAKE_TURNS
        and now_ns >= state.no_look_until_ns
    )


cdef inline void waiting_waited(relay_waiting *state, uint64_t took_ns) noexcept nogil:
    """The thread slept in epoll_wait, and *took_ns* have passed since it had nothing to do."""
    if took_ns > SHORT_WAIT_NS:
        state.short_waits = 0
    elif state.short_waits < SHORT_WAITS:
        state.short_waits += 1


cdef inline bint waiting_looks_on(
    relay_waiting *state, uint64_t began_ns, uint64_t looked_ns, uint64_t now_ns
) noexcept nogil:
    """Whether to look once more, after a look at *looked_ns* that found nothing and giving way until *now_ns*."""
    if now_ns - looked_ns > YIELD_NS_MAX:
        state.no_look_until_ns = now_ns + NO_LOOK_NS
        return False
    if now_ns - began_ns > LOOK_NS:
        state.short_waits = 0
        return False
    return True


cdef inline int _look(relay_worker *w, relay_waiting *state, uint64_t began_ns) noexcept nogil:
    """How many events came while looking; 0: the thread had better sleep."""
    cdef uint64_t looked_ns, now_ns = began_ns
    cdef int n
    while True:
        looked_ns = now_ns
        n = epoll_wait(w.epoll_fd, w.events, EVENTS_MAX, 0)
        if n:
            return n
        sched_yield()
        now_ns = monotonic_ns()
        if not waiting_looks_on(state, began_ns, looked_ns, now_ns):
            return 0


cdef inline void _doze(relay_waiting *state) noexcept nogil:
    cdef timespec doze
    doze.tv_sec = 0
    doze.tv_nsec = DOZE_NS
    if state.turns_awake == AWAKE_TURNS:
        _schedule(SCHED_BATCH)
    state.turns_awake = 0
    nanosleep(&doze, NULL)


cdef inline void _schedule(int policy) noexcept nogil:
    """SCHED_BATCH while bytes come in bulk: a thread that waits for others to leave a core finds more when it runs.

    With little to carry it would delay each step of an exchange by a tick where all cores are busy: that cost five in
    six connections a second (decision 0005). A realtime or idle policy, which somebody has chosen, stays. Some
    sandboxes forbid the call.
    """
    cdef sched_param none
    none.sched_priority = 0
    if sched_getscheduler(0) in (SCHED_BATCH, SCHED_OTHER):
        sched_setscheduler(0, policy, &none)
