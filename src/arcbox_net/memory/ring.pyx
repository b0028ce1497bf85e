"""Owns a ring: its shared memory, its wake-up, and what Python code does with it; ring.pxd is how it works.

Sleep and wake. The consumer that finds nothing sets `need_wake`, looks again, and only then waits for the descriptor
(`ring_arm`). The producer clears `need_wake` after each burst, and signals if it was set (`ring_wake`). So a consumer
that is awake costs the producer no system call.
Debug builds write down, in the shared memory, which thread uses each end, and refuse a second while the first lives.
"""

from cython cimport no_gc_clear
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport errno
from libc.math cimport ceil
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from arcbox_net.abi.atomics cimport abx_load_acquire_u64, abx_load_relaxed_u32, abx_store_relaxed_u32
from arcbox_net.abi.clock cimport monotonic_ns, nanosleep, timespec
from arcbox_net.abi.files cimport F_DUPFD_CLOEXEC, close, fcntl
from arcbox_net.abi.poll cimport POLLIN, poll, pollfd
from arcbox_net.abi.threads cimport abx_thread_has_ended, abx_thread_id
from arcbox_net.abi.wakeup cimport abx_wakeup_clear, abx_wakeup_open

from arcbox_net.errors import ConfigError, KernelError, RingCorrupt, RingMisused
from arcbox_net.memory.shared import SharedMemory

cdef enum:
    ENDS_ALIGNMENT = 128
    RING_VERSION = 1
    JOINED_PAUSES = 500

cdef uint64_t RING_MAGIC = 0x676E69722D786261  # "abx-ring"

cdef object _ATTACHED = object()  # what `attach` calls the constructor with, and nobody else can
ROLES = ("producer", "consumer")
CAPACITY_MAX = RING_CAPACITY_MAX


cdef bint ring_claim(ring_end *end) noexcept nogil:
    """Whether this thread is the one that uses *end*, or takes it over from none, or from one that has ended."""
    cdef uint32_t thread = abx_thread_id()
    cdef uint32_t owner = abx_load_relaxed_u32(&end.shared.threads[end.role])
    if owner == thread:
        return True
    if owner != 0 and not _has_ended(owner):
        end.intruder = thread
        return False
    abx_store_relaxed_u32(&end.shared.threads[end.role], thread)
    return True


cdef bint _has_ended(uint32_t thread) noexcept nogil:
    """Whether there is no such thread; a thread that was joined needs a moment to be gone."""
    cdef timespec pause = timespec(tv_sec=0, tv_nsec=100_000)
    cdef int _
    for _ in range(JOINED_PAUSES):
        if abx_thread_has_ended(thread):
            return True
        nanosleep(&pause, NULL)
    return False


cdef class LockFreeRing:
    """A ring of *capacity* items (a power of two, 2 to 16,777,216) of *item_size* bytes (8, 16, 32 or 64).

    One thread puts in and one takes out, of this process or of two that share `fd` and `fileno()`; more of either lose
    items, and are found out in debug builds (RingMisused). No call but `wait` ever blocks. Whatever the other process
    writes to the shared memory, no access leaves it: what cannot be raises RingCorrupt.
    """

    def __cinit__(self, capacity, item_size=8):
        cdef ring_header *header
        self.wakeup.wait_fd = self.wakeup.signal_fd = -1
        if capacity is _ATTACHED:
            return
        _check_shape(capacity, item_size)
        if abx_wakeup_open(&self.wakeup) < 0:
            raise KernelError("no descriptor to wake by", operation="wake-up", object="ring", errno=errno)
        self.memory = SharedMemory.create("arcbox-net-ring", RING_SLOTS_OFFSET + capacity * item_size)
        header = <ring_header *>self.memory.base
        header.magic = RING_MAGIC
        header.version = RING_VERSION
        header.item_size = item_size
        header.capacity = capacity
        self._open(capacity, item_size)

    @staticmethod
    def attach(fd, event_fd, signal_fd=None):
        """The ring that another process made: its `fd` and `fileno()`, which stay the caller's.

        So does its `signal_fileno()`, which on macOS is another one, and is needed to put in.

        Raises RingCorrupt if that memory is no ring of this version, ConfigError if its size could change.
        """
        cdef LockFreeRing ring = LockFreeRing(_ATTACHED)
        cdef ring_header header
        ring.memory = SharedMemory.attach(fd)
        if ring.memory.size < RING_SLOTS_OFFSET:
            raise _corrupt("size", ring.memory.size)
        header = (<ring_header *>ring.memory.base)[0]  # the other side may change it while we look
        if header.magic != RING_MAGIC:
            raise _corrupt("magic", header.magic)
        if header.version != RING_VERSION:
            raise _corrupt("version", header.version)
        try:
            _check_shape(header.capacity, header.item_size)
        except ConfigError as error:
            raise _corrupt(error.field, error.value) from None
        if ring.memory.size < RING_SLOTS_OFFSET + header.capacity * header.item_size:
            raise _corrupt("size", ring.memory.size)
        ring.wakeup.wait_fd = ring.wakeup.signal_fd = _duplicate(event_fd)
        if signal_fd is not None and signal_fd != event_fd:
            ring.wakeup.signal_fd = _duplicate(signal_fd)
        ring._open(header.capacity, header.item_size)
        return ring

    cdef int _open(self, uint64_t capacity, uint32_t item_size) except -1:
        cdef ring_header *shared = <ring_header *>self.memory.base
        cdef uint64_t head = abx_load_acquire_u64(&shared.head)
        cdef uint64_t tail = abx_load_acquire_u64(&shared.tail)
        cdef void *memory
        cdef ring_end *end
        cdef uint32_t role
        if head - tail > capacity:
            raise _corrupt("head - tail", head - tail)
        if posix_memalign(&memory, ENDS_ALIGNMENT, 2 * sizeof(ring_end)):
            raise MemoryError
        memset(memory, 0, 2 * sizeof(ring_end))
        self.producer = <ring_end *>memory
        self.consumer = self.producer + 1
        for role in range(2):
            end = self.producer + role
            end.role = role
            end.shared = shared
            end.slots = self.memory.base + RING_SLOTS_OFFSET
            end.mask = capacity - 1
            end.item_shift = item_size.bit_length() - 1
            end.publish_after = <uint32_t>max(<uint64_t>1, min(<uint64_t>RING_PUBLISH_MAX, capacity // 4))
            end.event_fd = self.wakeup.wait_fd if role == RING_CONSUMER else self.wakeup.signal_fd
        self.producer.own = self.consumer.other = head
        self.consumer.own = self.consumer.published = self.producer.other = tail
        return 0

    def __dealloc__(self):
        free(self.producer)
        if self.wakeup.signal_fd >= 0 and self.wakeup.signal_fd != self.wakeup.wait_fd:
            close(self.wakeup.signal_fd)
        if self.wakeup.wait_fd >= 0:
            close(self.wakeup.wait_fd)

    @property
    def capacity(self):
        """Items that the ring holds."""
        return self.producer.mask + 1

    @property
    def item_size(self):
        """Bytes of an item."""
        return 1 << self.producer.item_shift

    @property
    def fd(self):
        """The memory that the ring is in, for the other process."""
        return self.memory.fd

    def fileno(self):
        """The descriptor that `arm` has made readable, for the other process and for event loops."""
        return self.wakeup.wait_fd

    def signal_fileno(self):
        """The descriptor by which `fileno()` is made readable, for the other process: the same one on Linux."""
        return self.wakeup.signal_fd

    def __len__(self):
        """Items that wait to be taken out, as either side can see it."""
        cdef uint64_t tail = abx_load_acquire_u64(&self.consumer.shared.tail)
        cdef uint64_t count = abx_load_acquire_u64(&self.consumer.shared.head) - tail
        if count > self.consumer.mask + 1:
            raise _corrupt("head - tail", count)
        return count

    def push(self, item):
        """Put one item of `item_size` bytes in. Return whether there was room."""
        cdef const uint8_t[::1] source = item
        if source.shape[0] != self.item_size:
            raise ConfigError(
                f"an item of {source.shape[0]} bytes, not {self.item_size}", field="item", value=source.shape[0]
            )
        return self._push(&source[0], 1) == 1

    def push_batch(self, items):
        """Put *items*, a buffer of whole items one after the other, in. Return how many there was room for."""
        cdef const uint8_t[::1] source = items
        if source.shape[0] == 0:
            return 0
        return self._push(&source[0], self._whole(source.shape[0]))

    def pop(self):
        """Take one item out and return its bytes, None when there is none."""
        cdef uint8_t item[RING_ITEM_BYTES_MAX]
        if self._pop(item, 1) == 0:
            return None
        return (<char *>item)[:self.item_size]

    def pop_batch(self, out):
        """Take as many items out as there are and as fit the writable buffer *out*. Return how many."""
        cdef uint8_t[::1] target = out
        if target.shape[0] == 0:
            return 0
        return self._pop(&target[0], self._whole(target.shape[0]))

    def reserve(self, count):
        """A writable view of the next free slots in one piece: *count*, or fewer at the ring's end or when it fills.

        Fill them from the first on and `commit` them; after that they are the consumer's.
        """
        cdef uint8_t *span = NULL
        self.reserved = ring_reserve(self.producer, count, &span)
        self._check(self.producer)
        return self._view(span, self.reserved, False)

    def commit(self, count):
        """Hand the first *count* slots of the last `reserve` to the consumer, and wake it if it sleeps."""
        _check_count(count, self.reserved)
        ring_commit(self.producer, count)
        self.reserved = 0
        ring_wake(self.producer)

    def peek(self, count):
        """A read-only view of the next items in one piece: *count*, or fewer at the ring's end or when it empties.

        They stay in the ring until they are given back by `release`; after that they are the producer's.
        """
        cdef uint8_t *span = NULL
        self.peeked = ring_peek(self.consumer, count, &span)
        self._check(self.consumer)
        return self._view(span, self.peeked, True)

    def release(self, count):
        """Give the first *count* slots of the last `peek` back to the producer."""
        _check_count(count, self.peeked)
        ring_release(self.consumer, count)
        self.peeked = 0

    def arm(self):
        """Have `fileno()` become readable with the next item. Return False if there are items now: take them first."""
        abx_wakeup_clear(self.wakeup.wait_fd)
        armed = ring_arm(self.consumer)
        self._check(self.consumer)
        return armed

    def wait(self, timeout_s=None):
        """Sleep until there are items, without the GIL. Return False if there are none after *timeout_s* seconds."""
        cdef pollfd wanted = pollfd(fd=self.wakeup.wait_fd, events=POLLIN, revents=0)
        cdef uint64_t now = monotonic_ns()
        cdef uint64_t deadline = now if timeout_s is None else now + <uint64_t>(min(max(0, timeout_s), 1e9) * 1e9)
        cdef int timeout_ms = -1
        while self.arm():
            if timeout_s is not None:
                now = monotonic_ns()
                if now >= deadline:
                    return False
                timeout_ms = <int>min(ceil((deadline - now) / 1e6), 1e9)
            with nogil:
                poll(&wanted, 1, timeout_ms)
            PyErr_CheckSignals()
        return True

    def hand_over(self):
        """Let other threads put in and take out from now on; only debug builds care."""
        abx_store_relaxed_u32(&self.producer.shared.threads[RING_PRODUCER], 0)
        abx_store_relaxed_u32(&self.producer.shared.threads[RING_CONSUMER], 0)

    cdef uint32_t _push(self, const uint8_t *items, uint32_t count) except? 0xFFFFFFFF:
        count = ring_enqueue_burst(self.producer, items, count)
        self._check(self.producer)
        ring_wake(self.producer)
        return count

    cdef uint32_t _pop(self, uint8_t *items, uint32_t count) except? 0xFFFFFFFF:
        count = ring_dequeue_burst(self.consumer, items, count)
        self._check(self.consumer)
        return count

    cdef uint32_t _whole(self, Py_ssize_t size) except 0:
        """How many items *size* bytes are, as far as the ring could hold them."""
        if size % self.item_size:
            raise ConfigError(f"{size} bytes are no whole items of {self.item_size}", field="items", value=size)
        return <uint32_t>min(<uint64_t>(size >> self.producer.item_shift), self.producer.mask + 1)

    cdef int _check(self, ring_end *end) except -1:
        """Raise what the last operation on *end* found."""
        if end.corrupt:
            end.corrupt = 0
            if end.role == RING_PRODUCER:
                raise _corrupt("tail", abx_load_acquire_u64(&end.shared.tail))
            raise _corrupt("head", abx_load_acquire_u64(&end.shared.head))
        if end.intruder:
            intruder = end.intruder
            end.intruder = 0
            raise RingMisused(
                f"thread {intruder} is a second {ROLES[end.role]}",
                fix="a ring has one thread on each side: give each thread a ring, or call hand_over() between them",
                role=ROLES[end.role],
                owner=abx_load_relaxed_u32(&end.shared.threads[end.role]),
                thread=intruder,
            )
        return 0

    cdef object _view(self, uint8_t *span, uint32_t count, bint readonly):
        cdef RingSpan view = RingSpan()
        view.ring = self
        view.base = span
        view.size = <Py_ssize_t>count << self.producer.item_shift
        view.readonly = readonly
        return memoryview(view)


@no_gc_clear  # a view's end is told to the ring
cdef class RingSpan:
    """What a memoryview of slots is a view of; it keeps the memory mapped."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.size, self.readonly, flags)


cdef int _duplicate(int fd) except -1:
    cdef int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3)
    if copy < 0:
        raise KernelError(f"no descriptor {fd}", operation="fcntl(F_DUPFD_CLOEXEC)", object="ring", errno=errno)
    return copy


cdef int _check_shape(capacity, item_size) except -1:
    if not RING_CAPACITY_MIN <= capacity <= RING_CAPACITY_MAX or capacity & (capacity - 1):
        raise ConfigError(
            f"capacity {capacity}: expected a power of two, {RING_CAPACITY_MIN} to {RING_CAPACITY_MAX}",
            field="capacity",
            value=capacity,
        )
    if item_size not in (8, 16, 32, 64):
        raise ConfigError(f"item_size {item_size}: expected 8, 16, 32 or 64", field="item_size", value=item_size)
    return 0


cdef int _check_count(count, uint32_t most) except -1:
    if not 0 <= count <= most:
        raise ConfigError(f"{count} slots, of {most} in the span", field="count", value=count)
    return 0


cdef object _corrupt(str field, value):
    return RingCorrupt(
        f"ring: {field} is {value}, which cannot be",
        fix="stop using the ring: the other side is broken or hostile",
        field=field,
        value=value,
    )
