"""One worker's thread: its tables, what control and it say to each other, and its loop (worker_loop.pyx)."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.poller cimport abx_poll_event
from arcbox_net.dataplane.port cimport (
    PORT_DEAD, PORT_READY, PORT_WATCHES_MAX, PORT_WORDS, PORTS_MAX, port, port_counters, port_frame, port_is_ready,
    port_message, receiver, worker,
)
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.ring cimport ring_end

cdef enum:
    POLL_EVENTS_MAX = 64  # in one turn
    COMMANDS_PER_TURN = 8
    TICK_NS = 100_000_000
    SOON_NS = 1_000_000  # to the next tick, at a port's wish
    MESSAGE_ITEM_BYTES = 64
    MESSAGE_ITEMS = 8  # of the command ring, whose capacity is a multiple: a message lies in one piece
    EVENT_BYTES = 32
    EVENTS_CAPACITY = 1024  # of the ring to control
    COMMANDS_CAPACITY = 128 * MESSAGE_ITEMS  # of the ring from control: more than can be unanswered
    TICKET_WAITS = 1  # bit of a ticket: the sender waits for the answer, and has a ring of its own for it
    POSTS_MAX = 64  # unanswered messages; so many places of that ring are kept for the answers

cdef enum WorkerCommand:  # kinds of messages to the worker itself
    COMMAND_ADD = 1  # a `port_seat`
    COMMAND_REMOVE = 2
    COMMAND_PAUSE = 3
    COMMAND_RESUME = 4
    COMMAND_STOP = 5

cdef struct port_seat:  # payload of COMMAND_ADD
    port *port
    receiver *sink
    uint32_t generation

cdef enum WorkerEventKind:  # ports' own kinds begin with PORT_MESSAGE_FIRST
    EVENT_ANSWER = 0
    EVENT_DEAD = 1

cdef struct worker_event:  # from a worker to control
    uint32_t kind
    uint16_t port
    uint16_t gap
    uint32_t generation  # of the port's number
    uint32_t gap2
    int64_t value
    uint64_t ticket  # of the message that this answers

cdef struct port_watch:
    int fd
    uint32_t serial  # 0: nothing is watched
    uint32_t tag
    uint32_t events

cdef struct port_watches:
    port_watch of[PORT_WATCHES_MAX]

cdef struct worker_counters:  # in memory that others may map: worker_views.py reads it
    uint64_t magic
    uint32_t version
    uint32_t ports_max
    uint32_t port_bytes
    uint32_t drop_reasons
    uint64_t turns
    uint64_t sleeps
    uint64_t commands
    uint64_t events_lost  # reports for which control left no room
    uint64_t gap
    port_counters ports[PORTS_MAX]

cdef struct worker_loop:
    worker base
    int poller
    ring_end *commands
    ring_end *answers  # to those who wait for them
    ring_end *events
    worker_counters *counters
    uint64_t next_tick_ns
    uint64_t active_ns  # when frames were moved last
    uint64_t spin_ns  # how long to look for frames before a sleep; 0: not at all
    bint spins  # the last pause was short enough for it
    uint64_t doze_ns  # how long large frames are let gather; 0: not at all
    uint32_t bulk  # how much of what came lately were large frames
    bint paused
    bint stopping
    bint buries  # a port is dead
    uint32_t ports_end  # above the highest number in use
    uint32_t serial  # of the last watch
    uint32_t tickers  # ports and receivers with a tick
    uint32_t receivers_count
    receiver *receivers[PORTS_MAX]  # each once
    uint64_t unreported[PORT_WORDS]  # dead ports of which control has yet to hear
    uint32_t generations[PORTS_MAX]
    port_message message
    abx_poll_event happened[POLL_EVENTS_MAX]
    port_frame frames[BURST_MAX]
    port_watches watches[PORTS_MAX]


cdef inline void loop_note(worker_loop *loop, port *p) noexcept nogil:
    """Look at what one of the port's functions left in its flags."""
    if p.flags & PORT_DEAD:
        loop.buries = True
    elif p.flags & PORT_READY:
        port_is_ready(p)


cdef void loop_run(worker_loop *loop) noexcept nogil
