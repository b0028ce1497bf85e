"""port_send for tests and benchmarks: what a port that takes this and that gets to send. Frames are bytes, with a
virtio-net header of 12 bytes ahead."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.gso cimport SEGMENTS_MAX
from arcbox_net.dataplane.port cimport (
    FRAME_PARTS_MAX, PORT_DROPS, PORT_UP, TAKES_CSUM, TAKES_ECN, TAKES_TSO4, TAKES_TSO6, TAKES_USO, port,
    port_counters, port_frame, port_ops, worker,
)
from arcbox_net.dataplane.port_send cimport TAKES_LARGE, port_send
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES

CSUM, TSO4, TSO6, ECN, USO, LARGE = TAKES_CSUM, TAKES_TSO4, TAKES_TSO6, TAKES_ECN, TAKES_USO, TAKES_LARGE
SEGMENTS = SEGMENTS_MAX
PARTS = FRAME_PARTS_MAX

cdef struct noting_port:
    port base
    uint8_t *sent  # size, header and bytes of each frame, behind one another
    size_t used
    size_t room
    uint64_t frames
    bint counts_only


cdef void noting_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef noting_port *p = <noting_port *>self
    cdef uint32_t i
    p.frames += count
    if not p.counts_only:
        for i in range(count):
            _note(p, frames[i])


cdef void _note(noting_port *p, const port_frame *f) noexcept nogil:
    cdef uint32_t i, size = 0
    _append(p, <const uint8_t *>&f.size, sizeof(f.size))
    _append(p, f.head.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES + f.head.size)
    size = f.head.size
    for i in range(f.rest_count):
        _append(p, <const uint8_t *>f.rest[i].iov_base, f.rest[i].iov_len)
        size += <uint32_t>f.rest[i].iov_len
    if size != f.size:
        p.frames = 0  # a lie, which the caller finds


cdef void _append(noting_port *p, const uint8_t *data, size_t size) noexcept nogil:
    while p.room - p.used < size:
        p.room = 2 * p.room + 65536
        p.sent = <uint8_t *>realloc(p.sent, p.room)
    memcpy(p.sent + p.used, data, size)
    p.used += size


cdef port_ops noting_ops
noting_ops.tx_burst = noting_tx_burst


cdef class NotingPort:
    """Takes what it is told to take, and notes what it gets."""

    cdef noting_port *port
    cdef worker *owner

    def __cinit__(self, *, uint32_t takes=0, uint32_t frame_max=1514, bint up=True):
        self.port = <noting_port *>calloc(1, sizeof(noting_port))
        self.owner = <worker *>calloc(1, sizeof(worker))
        if self.port == NULL or self.owner == NULL:
            raise MemoryError
        self.port.base.counters = <port_counters *>calloc(1, sizeof(port_counters))
        if self.port.base.counters == NULL:
            raise MemoryError
        self.port.base.ops = &noting_ops
        self.port.base.owner = self.owner
        self.port.base.takes = takes
        self.port.base.frame_max = frame_max
        self.port.base.flags = PORT_UP if up else 0

    def __dealloc__(self):
        if self.port != NULL:
            free(self.port.base.counters)
            free(self.port.sent)
        free(self.port)
        free(self.owner)

    def send(self, list frames, *, uint32_t head=0, uint32_t piece=0):
        """Send one burst, and return what came out. Of each frame, *head* bytes are in its head (0: all), and the
        rest lies in pieces of *piece* bytes."""
        cdef Burst burst = Burst(frames, head, piece)
        self.port.used = 0
        self.port.frames = 0
        with nogil:
            port_send(&self.port.base, burst.pointers, burst.count)
        return self._sent()

    def time(self, list frames, int rounds, *, uint32_t head=0, uint32_t piece=0):
        """Nanoseconds that sending the burst takes, and how many frames the port gets of it."""
        cdef Burst burst = Burst(frames, head, piece)
        cdef uint64_t before
        cdef int _i
        self.port.counts_only = True
        self.port.frames = 0
        with nogil:
            before = monotonic_ns()
            for _i in range(rounds):
                port_send(&self.port.base, burst.pointers, burst.count)
            before = monotonic_ns() - before
        self.port.counts_only = False
        return before / rounds, self.port.frames // rounds

    @property
    def drops(self):
        """Reason: frames."""
        cdef int i
        counts = [self.port.base.counters.drops[i] for i in range(<int>PORT_DROPS)]
        return {i: count for i, count in enumerate(counts) if count}

    cdef list _sent(self):
        cdef size_t at = 0
        cdef uint32_t size
        frames = []
        while at < self.port.used:
            memcpy(&size, self.port.sent + at, sizeof(size))
            at += sizeof(size)
            size += FRAME_VNET_BYTES
            frames.append((<const char *>self.port.sent)[at : at + size])
            at += size
        if <uint64_t>len(frames) != self.port.frames:
            raise AssertionError("the size of a frame is not that of its parts")
        return frames


cdef class Burst:
    """Frames in memory of their own, to the byte, so that a sanitizer sees who reads behind one."""

    cdef port_frame *frames
    cdef port_frame **pointers
    cdef uint32_t count

    def __cinit__(self, list frames, uint32_t head, uint32_t piece):
        self.frames = <port_frame *>calloc(len(frames) + 1, sizeof(port_frame))
        self.pointers = <port_frame **>calloc(len(frames) + 1, sizeof(void *))
        if self.frames == NULL or self.pointers == NULL:
            raise MemoryError
        for frame in frames:
            self._add(frame, head, piece)

    cdef int _add(self, bytes frame, uint32_t head, uint32_t piece) except -1:
        cdef port_frame *f = &self.frames[self.count]
        cdef const uint8_t *data = frame
        cdef uint32_t size = <uint32_t>len(frame) - FRAME_VNET_BYTES
        cdef uint32_t at = min(size, head) if head else size
        cdef uint8_t *memory = <uint8_t *>calloc(1, FRAME_VNET_BYTES + at)
        if memory == NULL:
            raise MemoryError
        memcpy(memory, data, FRAME_VNET_BYTES + at)
        f.head.data = memory + FRAME_VNET_BYTES
        f.head.size = at
        f.head.flags = FRAME_VNET
        f.size = size
        self.pointers[self.count] = f
        self.count += 1
        f.rest = <iovec *>calloc(FRAME_PARTS_MAX, sizeof(iovec))
        if f.rest == NULL:
            raise MemoryError
        data += FRAME_VNET_BYTES
        while at < size:
            if f.rest_count == FRAME_PARTS_MAX:
                raise ValueError(f"{size} bytes in pieces of {piece}: {FRAME_PARTS_MAX} pieces at most")
            f.rest[f.rest_count].iov_len = min(piece, size - at)
            f.rest[f.rest_count].iov_base = calloc(1, f.rest[f.rest_count].iov_len)
            if f.rest[f.rest_count].iov_base == NULL:
                raise MemoryError
            memcpy(f.rest[f.rest_count].iov_base, data + at, f.rest[f.rest_count].iov_len)
            at += <uint32_t>f.rest[f.rest_count].iov_len
            f.rest_count += 1
        return 0

    def __dealloc__(self):
        cdef uint32_t i, part
        for i in range(self.count):
            free(self.frames[i].head.data - FRAME_VNET_BYTES)
            for part in range(self.frames[i].rest_count):
                free(self.frames[i].rest[part].iov_base)
            free(self.frames[i].rest)
        free(self.frames)
        free(self.pointers)


def time_memcpy(int size, int rounds):
    """Nanoseconds that copying *size* bytes takes, which lie in the cache."""
    cdef uint8_t *memory = <uint8_t *>calloc(2, size)
    cdef uint64_t before
    cdef int i
    if memory == NULL:
        raise MemoryError
    with nogil:
        before = monotonic_ns()
        for i in range(rounds):
            memory[i % size] = <uint8_t>i
            memcpy(memory + size, memory, size)
        before = monotonic_ns() - before
    free(memory)
    return before / rounds
