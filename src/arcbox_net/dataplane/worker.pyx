"""`Worker`: a thread that moves frames between its ports, as control sees it. worker_loop.pyx is what it does.

Control and the thread share no object that either changes: messages go by one ring, answers to those who wait and
events by two others, counters lie in memory that the thread writes and everybody may read. The thread's functions are
called by nobody else, so a port is only ever touched by the thread that it is in.
"""

import contextlib
import os
import signal
import threading

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.files cimport close
from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ, abx_poller_open, abx_poller_watch
from arcbox_net.abi.wakeup cimport abx_wakeup_signal
from arcbox_net.dataplane.port cimport (
    MESSAGE_PAYLOAD_BYTES, PORT_DROP_REASONS, PORT_MESSAGE_FIRST, PORT_NONE, PORTS_MAX, RECEIVER_MESSAGE_FIRST, Port,
    Receiver, port_counters, port_message,
)
from arcbox_net.dataplane.worker_loop cimport (
    COMMAND_ADD, COMMAND_PAUSE, COMMAND_REMOVE, COMMAND_RESUME, COMMAND_STOP, COMMANDS_CAPACITY, EVENT_ANSWER,
    EVENT_BYTES, EVENT_DEAD, EVENTS_CAPACITY, MESSAGE_ITEM_BYTES, MESSAGE_ITEMS, POSTS_MAX, TICKET_WAITS, loop_run,
    port_seat, worker_counters, worker_event, worker_loop,
)
from arcbox_net.memory.pool cimport PacketPool, PoolCache
from arcbox_net.memory.ring cimport LockFreeRing, ring_dequeue_burst, ring_enqueue_burst, ring_wake
from arcbox_net.memory.shared cimport SharedMemory

from arcbox_net.dataplane.cores import cores
from arcbox_net.dataplane.worker_views import WorkerEvent, read_counters
from arcbox_net.dataplane.worker_views import COUNTERS_MAGIC as _COUNTERS_MAGIC
from arcbox_net.dataplane.worker_views import COUNTERS_VERSION as _COUNTERS_VERSION
from arcbox_net.errors import ConfigError, KernelError, LimitReached, NotRunning

cdef enum:
    SPIN_US = 20
    ANSWERS_CAPACITY = 64
    EVENTS_AT_ONCE = 256

ANSWER = EVENT_ANSWER
DEAD = EVENT_DEAD
ALL_PORTS = PORTS_MAX
EVENTS_MAX = EVENTS_CAPACITY
DOZE_US = 20  # and Linux's timer slack, 50 µs
DOZE_US_MAX = 100_000
PAYLOAD_MAX = MESSAGE_PAYLOAD_BYTES
POSTS = POSTS_MAX
PORT_MESSAGES = PORT_MESSAGE_FIRST  # kinds from here on are the port's own, those below its receiver's


cdef class Worker:
    """A thread without the GIL that owns the ports added to it. `with Worker() as worker:` starts and stops it.

    Frames lie in buffers of *pool*, a pool of the worker's own if None. *spin_us* is how long it looks for frames
    before it sleeps, when they come at short intervals; None: 20, and 0 on one core. *doze_us* is how long it lets
    large frames gather that come turn after turn; 0: it does not.
    Threads may share a worker; `events` is for one of them.
    """

    def __cinit__(self, PacketPool pool=None, name="worker", spin_us=None, doze_us=DOZE_US):
        self.pool = PacketPool() if pool is None else pool
        self.name = name
        self.lock = threading.Lock()
        self.pausing = threading.Lock()
        self.seats = {}
        self.loop = <worker_loop *>calloc(1, sizeof(worker_loop))
        if self.loop == NULL:
            raise MemoryError
        self.loop.poller = -1
        if spin_us is None:
            spin_us = SPIN_US if cores() > 1 else 0
        self.loop.spin_ns = spin_us * 1000
        if not 0 <= doze_us <= DOZE_US_MAX:
            raise ConfigError(f"doze_us {doze_us}: 0 to {DOZE_US_MAX}", field="doze_us", value=doze_us)
        self.loop.doze_ns = doze_us * 1000

    def __dealloc__(self):
        # The thread holds a reference: it has ended, or never began.
        if self.loop != NULL and self.loop.poller >= 0:
            close(self.loop.poller)
        free(self.loop)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, traceback):
        self.stop()

    def start(self):
        """Start the thread. Raises KernelError, LimitReached if the pool has no cache left for it."""
        if self.has_started:
            raise ConfigError("a worker starts once", field="worker", value=self.name)
        self.cache = PoolCache(self.pool)
        self.memory = SharedMemory.create("arcbox-net-counters", sizeof(worker_counters))
        self.commands = LockFreeRing(COMMANDS_CAPACITY, MESSAGE_ITEM_BYTES)
        self.answers = LockFreeRing(ANSWERS_CAPACITY, EVENT_BYTES)
        self.reports = LockFreeRing(EVENTS_CAPACITY, EVENT_BYTES)
        self.reports.arm()
        self.loop.base.buffers = self.cache.cache
        self.loop.commands = self.commands.consumer
        self.loop.answers = self.answers.producer
        self.loop.events = self.reports.producer
        self.loop.counters = <worker_counters *>self.memory.base
        self.loop.counters.magic = _COUNTERS_MAGIC
        self.loop.counters.version = _COUNTERS_VERSION
        self.loop.counters.ports_max = PORTS_MAX
        self.loop.counters.port_bytes = sizeof(port_counters)
        self.loop.counters.drop_reasons = PORT_DROP_REASONS
        if self.loop.poller < 0:  # a start that failed may have left one
            self.loop.poller = abx_poller_open()
        if self.loop.poller < 0 or abx_poller_watch(
            self.loop.poller, self.commands.fileno(), POLL_READ | POLL_EDGE, PORT_NONE
        ) < 0:
            raise KernelError("no poller", operation="poller", object=self.name, errno=errno)
        self.has_started = True
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self.thread.start()

    def _run(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            loop_run(self.loop)

    def stop(self):
        """Close every port, and give everything back. Stopping twice is fine."""
        with self.lock:
            if self.thread is None:
                return
            self._answered(COMMAND_STOP, 0, b"")
            self.thread.join()
            self.thread = None
        for port, _, _ in self.seats.values():
            (<Port>port).worker = None
        self.seats.clear()
        close(self.loop.poller)
        self.loop.poller = -1
        self.commands = self.answers = self.reports = None
        self.memory = None
        self.cache = None

    def add(self, Port port not None, Receiver sink not None, number=None):
        """Give the worker *port*, and *sink* what it receives. Return its number: *number*, or the lowest that is free.

        Raises LimitReached when all numbers are taken, OSError if the port could not be opened.
        """
        cdef port_seat seat
        if port.worker is not None:
            raise ConfigError("the port is in a worker", field="port", value=port.number)
        number = self._free_number(number)
        self.generations += 1
        seat.port = port.base
        seat.sink = sink.base
        seat.generation = self.generations
        self.seats[number] = (port, sink, self.generations)
        port.worker = self
        port.base.number = number
        try:
            self._ask(COMMAND_ADD, number, (<char *>&seat)[:sizeof(seat)])
        except BaseException:
            del self.seats[number]
            port.worker = None
            raise
        return number

    def remove(self, number):
        """Close the port, if it is not closed, and free its number. The port may be added again."""
        if number not in self.seats:
            raise ConfigError(f"no port {number}", field="number", value=number)
        self._ask(COMMAND_REMOVE, number, b"")
        (<Port>self.seats.pop(number)[0]).worker = None

    def send(self, number, kind, payload=b""):
        """Have the port (kinds from 200 on) or its receiver (100 to 199) get a message, and return its answer.

        Raises OSError for a negative one.
        """
        _check_kind(kind)
        return self._ask(kind, number, bytes(payload))

    def post(self, number, kind, payload=b""):
        """As `send`, without waiting. Return the ticket that comes with the answer in `events`.

        Raises LimitReached when as many posts wait for their answers to be taken.
        """
        _check_kind(kind)
        if self.posts == POSTS_MAX:
            raise LimitReached(
                f"{POSTS_MAX} posts without an answer", fix="take the events", limit="posts", value=POSTS_MAX
            )
        ticket = self._put(kind, number, bytes(payload), 0)
        self.posts += 1
        return ticket

    @property
    def event_fd(self):
        """Readable when `events` has some, for event loops."""
        return self._running(self.reports).fileno()

    def events(self):
        """What happened since the last call: `WorkerEvent`s, oldest first."""
        cdef worker_event found[EVENTS_AT_ONCE]
        cdef uint32_t count, i
        cdef LockFreeRing reports = self._running(self.reports)
        happened = []
        reports.hand_over()
        while not reports.arm():
            if len(happened) >= EVENTS_CAPACITY:  # the rest is for the next call
                abx_wakeup_signal(reports.producer.event_fd)
                break
            count = ring_dequeue_burst(reports.consumer, <uint8_t *>found, EVENTS_AT_ONCE)
            for i in range(count):
                if found[i].kind == EVENT_ANSWER:
                    self.posts -= 1
                elif not self._is_current(found[i].port, found[i].generation):
                    continue
                happened.append(WorkerEvent(found[i].port, found[i].kind, found[i].value, found[i].ticket))
        if len(happened) >= EVENTS_CAPACITY - POSTS_MAX:  # a dead port may have waited for room to be reported
            ring_wake(self.commands.producer)
        return happened

    @contextlib.contextmanager
    def paused(self):
        """Within the block the worker only takes messages, and its receivers' memory is the caller's to look at.

        Frames wait meanwhile: not longer than needed.
        """
        with self.pausing:
            self._ask(COMMAND_PAUSE, 0, b"")
            try:
                yield
            finally:
                if self.thread is not None:  # it was stopped within the block
                    self._ask(COMMAND_RESUME, 0, b"")

    def counters(self):
        """What each port has counted, by number, as of now."""
        return self.totals().ports

    def totals(self):
        """The `WorkerCounters` as of now."""
        cdef SharedMemory memory = self._running(self.memory)
        return read_counters((<char *>memory.base)[: memory.size])

    @property
    def counters_fd(self):
        """The memory with the counters, for other processes: worker_views.py says what is where."""
        return self._running(self.memory).fd

    def _running(self, part):
        if part is None:
            raise NotRunning(f"worker {self.name} does not run", network=None)
        return part

    cdef bint _is_current(self, uint16_t number, uint32_t generation):
        """Whether the port with that number is the one that an event is of, and not one that had it before."""
        seat = self.seats.get(number)
        return seat is not None and seat[2] == generation

    cdef int _free_number(self, wanted) except -1:
        if wanted is not None:
            if not 0 <= wanted < PORTS_MAX or wanted in self.seats:
                raise ConfigError(f"port number {wanted} is not free", field="number", value=wanted)
            return wanted
        for number in range(PORTS_MAX):
            if number not in self.seats:
                return number
        raise LimitReached(f"a worker has at most {PORTS_MAX} ports", limit="ports", value=PORTS_MAX)

    cdef int64_t _ask(self, uint16_t kind, uint16_t number, bytes payload) except? -1:
        """Send a message and wait for its answer."""
        with self.lock:
            return self._answered(kind, number, payload)

    cdef int64_t _answered(self, uint16_t kind, uint16_t number, bytes payload) except? -1:
        cdef worker_event answer
        cdef uint64_t ticket = self._put(kind, number, payload, TICKET_WAITS)
        self.answers.hand_over()
        while True:
            self.answers.wait()
            # One who was interrupted left his answer behind.
            while ring_dequeue_burst(self.answers.consumer, <uint8_t *>&answer, 1):
                if answer.ticket == ticket:
                    if answer.value < 0:
                        raise OSError(-answer.value, os.strerror(-answer.value))
                    return answer.value

    cdef uint64_t _put(self, uint16_t kind, uint16_t number, bytes payload, uint64_t waits) except 0:
        cdef uint8_t items[MESSAGE_ITEMS * MESSAGE_ITEM_BYTES]
        cdef port_message *message = <port_message *>items
        cdef size_t size = len(payload)
        if self.thread is None:
            raise NotRunning(f"worker {self.name} does not run", network=None)
        if size > MESSAGE_PAYLOAD_BYTES:
            raise ConfigError(f"a payload of {size} bytes", field="payload", value=size)
        memset(items, 0, sizeof(items))
        self.tickets += 2
        message.kind = kind
        message.port = number
        message.size = size
        message.ticket = self.tickets | waits
        memcpy(message.payload, <const char *>payload, size)
        self.commands.hand_over()
        if ring_enqueue_burst(self.commands.producer, items, MESSAGE_ITEMS) == 0:
            raise LimitReached("the worker takes no messages", limit="messages", value=COMMANDS_CAPACITY)
        ring_wake(self.commands.producer)
        return message.ticket


cdef int _check_kind(kind) except -1:
    if not RECEIVER_MESSAGE_FIRST <= kind <= 0xFFFF:
        raise ConfigError(f"no message has kind {kind}", field="kind", value=kind)
    return 0
