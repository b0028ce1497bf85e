"""A worker without a thread, whose ports are lists: for tests of receivers, frame by frame, at chosen times."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    HEAD_BYTES, PORT_DROPS, PORT_MESSAGE_FIRST, PORT_UP, PORTS_MAX, Port, Receiver, port, port_counters, port_frame,
    port_message, port_ops, worker,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport PoolCache

from arcbox_net.dataplane.port import PortDrop as DropReason

cdef enum:
    TAKES_ALL = 31
    TICK_NS = 100_000_000

cdef struct listed_port:
    port base
    void *taken  # a list of the lab's, borrowed; NULL: frames are counted only
    port_counters counted


cdef void _take(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef listed_port *p = <listed_port *>self
    cdef uint32_t i
    p.counted.tx_frames += count
    if p.taken == NULL:
        return
    with gil:
        for i in range(count):
            (<list>p.taken).append(_octets(frames[i]))


cdef bytes _octets(const port_frame *f):
    """The virtio-net header, and the frame."""
    cdef list parts = [(<char *>f.head.data - FRAME_VNET_BYTES)[: FRAME_VNET_BYTES + f.head.size]]
    cdef uint32_t i
    for i in range(f.rest_count):
        parts.append((<char *>f.rest[i].iov_base)[: f.rest[i].iov_len])
    return b"".join(parts)


cdef port_ops _ops
memset(&_ops, 0, sizeof(_ops))
_ops.tx_burst = _take


cdef class Lab:
    """Ports 0 to *count* - 1 of one receiver. Its time is `now_ns`."""

    cdef worker loop
    cdef listed_port *ports
    cdef uint32_t count
    cdef list taken
    cdef readonly list receivers
    cdef list placed
    cdef PoolCache cache

    def __cinit__(self, receiver, uint32_t count, *, frame_max=1514, pool=None):
        cdef uint32_t i
        self.ports = <listed_port *>calloc(PORTS_MAX, sizeof(listed_port))
        if self.ports is NULL:
            raise MemoryError
        self.count = count
        self.taken = [[] for _ in range(count)]
        self.receivers = [receiver]
        self.placed = []
        self.loop.now_ns = 1_000_000_000
        if pool is not None:
            self.cache = PoolCache(pool)
            self.loop.buffers = self.cache.cache
        for i in range(count):
            self.ports[i].base.ops = &_ops
            self.ports[i].base.owner = &self.loop
            self.ports[i].base.sink = (<Receiver?>receiver).base
            self.ports[i].base.counters = &self.ports[i].counted
            self.ports[i].base.number = <uint16_t>i
            self.ports[i].base.flags = PORT_UP
            self.ports[i].base.takes = TAKES_ALL
            self.ports[i].base.frame_max = frame_max
            self.ports[i].base.generation = 1
            self.ports[i].taken = <void *>self.taken[i]
            self.loop.ports[i] = &self.ports[i].base

    def __dealloc__(self):
        free(self.ports)

    @property
    def now_ns(self):
        return self.loop.now_ns

    @now_ns.setter
    def now_ns(self, value):
        self.loop.now_ns = value

    def place(self, uint32_t number, Port one):
        """Put a port of another kind in place *number*, with the same receiver."""
        one.base.owner = &self.loop
        one.base.sink = self.ports[number].base.sink
        one.base.counters = &self.ports[number].counted
        one.base.number = <uint16_t>number
        one.base.generation = 1
        self.loop.ports[number] = one.base
        self.placed.append(one)
        if one.base.ops.open(one.base) < 0:
            raise OSError("the port does not open")

    def close(self):
        """Have the ports that were placed give up what they hold."""
        for one in self.placed:
            (<Port>one).base.ops.close((<Port>one).base)

    def set_sink(self, uint32_t number, Receiver receiver):
        """Have another receiver for what the port receives."""
        self.ports[number].base.sink = receiver.base
        self.receivers.append(receiver)

    def set_port(self, uint32_t number, *, frame_max=None, generation=None, takes=None):
        """Change what the port can do, or whose the number is."""
        cdef port *p = &self.ports[number].base
        p.frame_max = p.frame_max if frame_max is None else frame_max
        p.generation = p.generation if generation is None else generation
        p.takes = p.takes if takes is None else takes

    def send(self, uint32_t number, kind, payload=b""):
        """As `Worker.send`."""
        cdef port_message message
        cdef port *p = self.loop.ports[number]
        cdef int result
        memset(&message, 0, sizeof(message))
        message.kind = kind
        message.port = <uint16_t>number
        message.size = len(payload)
        memcpy(message.payload, PyBytes_AS_STRING(payload), min(<size_t>len(payload), sizeof(message.payload)))
        if kind < PORT_MESSAGE_FIRST:
            result = p.sink.message(p.sink, p, &message)
        else:
            result = p.ops.message(p, &message)
        if result < 0:
            raise OSError(-result, "the message was refused")
        return result

    def rx(self, uint32_t number, frames):
        """The port receives *frames*, each behind a virtio-net header; what each port was given, by number."""
        cdef port *p = &self.ports[number].base
        cdef port_frame burst[BURST_MAX]
        cdef iovec rests[BURST_MAX]
        cdef list memory = [bytearray(one) for one in frames]
        cdef uint32_t i, count = len(memory)
        if count > BURST_MAX:
            raise ValueError(f"{count} frames in a burst")
        for i in range(count):
            _describe(&burst[i], &rests[i], memory[i])
            burst[i].from_port = <uint16_t>number
        with nogil:
            p.sink.burst(p.sink, p, burst, count)
        return self.take()

    def take(self):
        """What each port was given since the last call, by number."""
        found = {i: list(frames) for i, frames in enumerate(self.taken) if frames}
        for frames in self.taken:
            frames.clear()
        return found

    def tick(self, count=1):
        """*count* ticks pass: each a tenth of a second."""
        cdef port *p = &self.ports[0].base
        cdef int _i
        for _i in range(count):
            self.loop.now_ns += TICK_NS
            p.sink.tick(p.sink, self.loop.now_ns)
            for one in self.placed:
                (<Port>one).base.ops.tick((<Port>one).base)

    def drops(self, uint32_t number):
        """What the port's frames, and frames to it, were dropped for: the reasons' names, in lower case."""
        cdef uint32_t i
        found = {}
        for i in range(<uint32_t>PORT_DROPS):
            if self.ports[number].counted.drops[i]:
                found[DropReason(i).name.removeprefix("PORT_DROP_").lower()] = self.ports[number].counted.drops[i]
        return found

    def burst_ns(self, uint32_t number, frames, uint32_t rounds):
        """Nanoseconds that *rounds* of the same burst take, with ports that only count."""
        cdef port *p = &self.ports[number].base
        cdef port_frame burst[BURST_MAX]
        cdef iovec rests[BURST_MAX]
        cdef list memory = [bytearray(one) for one in frames]
        cdef uint32_t i, _round, count = len(memory)
        cdef uint64_t began
        for i in range(count):
            _describe(&burst[i], &rests[i], memory[i])
        for i in range(self.count):
            self.ports[i].taken = NULL
        with nogil:
            began = monotonic_ns()
            for _round in range(rounds):
                p.sink.burst(p.sink, p, burst, count)
            began = monotonic_ns() - began
        return began


cdef void _describe(port_frame *f, iovec *rest, bytearray memory):
    """A frame whose head is HEAD_BYTES, and whose rest is in another piece."""
    cdef uint8_t *data = <uint8_t *>(<char *>memory)
    cdef uint32_t size = len(memory) - FRAME_VNET_BYTES
    memset(f, 0, sizeof(port_frame))
    f.size = size
    f.head.data = data + FRAME_VNET_BYTES
    f.head.size = min(size, <uint32_t>HEAD_BYTES)
    f.head.l3 = 14
    f.head.flags = FRAME_VNET
    rest.iov_base = f.head.data + f.head.size
    rest.iov_len = size - f.head.size
    f.rest = rest
    f.rest_count = 1 if rest.iov_len else 0


def copy_ns(frames, uint32_t rounds):
    """Nanoseconds that copying the first 64 bytes of each frame takes, *rounds* times."""
    cdef uint8_t to[64]
    cdef list memory = [bytearray(one) for one in frames]
    cdef uint8_t *sources[BURST_MAX]
    cdef uint32_t i, _round, count = len(memory)
    cdef uint64_t began
    cdef volatile uint8_t _seen = 0
    for i in range(count):
        sources[i] = <uint8_t *>(<char *>memory[i]) + FRAME_VNET_BYTES
    with nogil:
        began = monotonic_ns()
        for _round in range(rounds):
            for i in range(count):
                memcpy(to, sources[i], sizeof(to))
                _seen = to[i & 63]
        began = monotonic_ns() - began
    return began


def empty_ns(uint32_t count, uint32_t rounds):
    """Nanoseconds that the loops alone take."""
    cdef uint32_t i, _round
    cdef uint64_t began
    cdef volatile uint8_t _seen = 0
    with nogil:
        began = monotonic_ns()
        for _round in range(rounds):
            for i in range(count):
                _seen = <uint8_t>i
        began = monotonic_ns() - began
    return began
