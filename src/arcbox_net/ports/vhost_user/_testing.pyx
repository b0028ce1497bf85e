"""What tests and benchmarks need of a vhost-user port: to be its worker, one step at a time, and its walker."""

from cython cimport no_gc_clear
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.atomics cimport abx_store_release_u16
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.files cimport close
from arcbox_net.abi.poller cimport abx_poll_event, abx_poller_open, abx_poller_wait
from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    FRAME_PARTS_MAX, HEAD_BYTES, MESSAGE_PAYLOAD_BYTES, PORT_READY, PORT_UP, Port, port_counters,
    port_frame, port_message,
)
from arcbox_net.dataplane.worker_loop cimport EVENT_BYTES, worker_event, worker_loop
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.guest_memory cimport GuestMemory, guest_range
from arcbox_net.memory.pool cimport PacketPool, PoolCache
from arcbox_net.memory.ring cimport LockFreeRing, ring_dequeue_burst
from arcbox_net.ports.vhost_user.port_messages cimport region_name, region_payload, ring_fd, ring_number, ring_start
from arcbox_net.ports.vhost_user.vhost_port cimport RECEIVE_RING, TRANSMIT_RING, vhost_port
from arcbox_net.ports.vhost_user.vring cimport (
    CHAIN_MAX, FAULT_NONE, RingFault, vring, vring_available, vring_begin, vring_chain, vring_head, vring_layout,
    vring_start, vring_walk,
)

from arcbox_net.dataplane.port import PortDrop

PAYLOAD_BYTES = {
    "REGION": sizeof(region_payload), "REGION_NAME": sizeof(region_name), "RING_START": sizeof(ring_start),
    "RING_FD": sizeof(ring_fd), "RING_NUMBER": sizeof(ring_number),
}

cdef enum:
    NUMBER = 3  # of the port in its worker
    EVENTS_CAPACITY = 1024


cdef struct sent_frame:  # one that a test sends
    uint8_t head[FRAME_VNET_BYTES + HEAD_BYTES]
    iovec rest[FRAME_PARTS_MAX]


@no_gc_clear  # the port gives buffers back when it is closed
cdef class Turns:
    """A worker with *port* as its only one, whose steps the test takes itself."""

    cdef worker_loop *loop
    cdef port_counters counts
    cdef readonly Port port
    cdef PacketPool pool
    cdef PoolCache cache
    cdef LockFreeRing reports
    cdef port_frame frames[BURST_MAX]
    cdef sent_frame *outgoing

    def __cinit__(self, Port port not None, PacketPool pool=None):
        self.pool = PacketPool(small=64, large=8) if pool is None else pool
        self.cache = PoolCache(self.pool)
        self.reports = LockFreeRing(EVENTS_CAPACITY, EVENT_BYTES)
        self.loop = <worker_loop *>calloc(1, sizeof(worker_loop))
        self.outgoing = <sent_frame *>calloc(BURST_MAX, sizeof(sent_frame))
        if self.loop == NULL or self.outgoing == NULL:
            raise MemoryError
        self.loop.base.buffers = self.cache.cache
        self.loop.base.ports[NUMBER] = port.base
        self.loop.events = self.reports.producer
        self.loop.poller = abx_poller_open()
        self.port = port
        port.base.owner = &self.loop.base
        port.base.counters = &self.counts
        port.base.number = NUMBER

    def __dealloc__(self):
        if self.loop != NULL:
            self.port.base.ops.close(self.port.base)
            self.port.base.owner = NULL
            close(self.loop.poller)
        free(self.loop)
        free(self.outgoing)

    def message(self, kind, payload=b""):
        """The port's answer."""
        cdef port_message message
        memset(&message, 0, sizeof(message))
        body = bytes(payload)[:MESSAGE_PAYLOAD_BYTES]
        message.kind = kind
        message.size = len(body)
        memcpy(message.payload, <const char *>body, len(body))
        return self.port.base.ops.message(self.port.base, &message)

    def receive(self, uint32_t budget=BURST_MAX, *, before_release=None):
        """One rx_burst: for each frame its virtio-net header, its bytes as of the release, the sizes of its parts."""
        cdef uint32_t count, i
        with nogil:
            count = self.port.base.ops.rx_burst(self.port.base, self.frames, budget)
        if before_release is not None:
            before_release()
        found = [_shown(&self.frames[i]) for i in range(count)]
        if count:
            with nogil:
                self.port.base.ops.rx_release(self.port.base, self.frames, count)
        return found

    def send(self, frames, *, part_bytes=4096, bint flush=True):
        """One tx_burst of up to 64 pairs of header and frame; what is behind a head lies in parts of *part_bytes*."""
        cdef port_frame *each[BURST_MAX]
        cdef uint32_t count = 0
        kept = []
        for header, body in frames:
            each[count] = &self.frames[count]
            kept.append(_set(each[count], &self.outgoing[count], header, body, part_bytes))
            count += 1
        with nogil:
            self.port.base.ops.tx_burst(self.port.base, each, count)
            if flush:
                self.port.base.ops.tx_flush(self.port.base)

    def flush(self):
        self.port.base.ops.tx_flush(self.port.base)

    def arm(self):
        """Whether the worker may sleep."""
        return bool(self.port.base.ops.arm(self.port.base))

    def kicked(self):
        """Whether a watched descriptor has an event; the port is told."""
        cdef abx_poll_event events[4]
        cdef int count = abx_poller_wait(self.loop.poller, events, 4, 0)
        for _ in range(count):
            self.port.base.ops.event(self.port.base, 0, 0)
        return count > 0

    @property
    def watches(self):
        """How many descriptors are watched."""
        return sum(self.loop.watches[NUMBER].of[i].serial != 0 for i in range(24))

    @property
    def is_up(self):
        return bool(self.port.base.flags & PORT_UP)

    @property
    def is_ready(self):
        return bool(self.port.base.flags & PORT_READY)

    @property
    def takes(self):
        return self.port.base.takes

    @property
    def sent(self):
        """Frames and bytes that the port counted as sent."""
        return self.counts.tx_frames, self.counts.tx_bytes

    @property
    def drops(self):
        """How many frames were dropped, by reason."""
        return {PortDrop(i): self.counts.drops[i] for i in range(len(PortDrop)) if self.counts.drops[i]}

    def reported(self):
        """What the port told control since the last call: kinds and values."""
        cdef worker_event event
        found = []
        while ring_dequeue_burst(self.reports.consumer, <uint8_t *>&event, 1):
            found.append((event.kind, event.value))
        return found

    def receive_again(self, uint64_t turns, uint16_t burst, uint32_t pair=0):
        """Have the guest offer its next *burst* entries, whatever they are, and receive them: *turns* times.

        How many nanoseconds it took, and how many frames there were.
        """
        cdef vhost_port *p = <vhost_port *>self.port.base
        cdef vring *v = &p.queues[2 * pair + TRANSMIT_RING].ring
        cdef uint64_t began = monotonic_ns(), frames = 0, _i
        cdef uint32_t count
        with nogil:
            for _i in range(turns):
                abx_store_release_u16(&v.available[1], <uint16_t>(v.next + burst))
                count = p.base.ops.rx_burst(&p.base, self.frames, BURST_MAX)
                p.base.ops.rx_release(&p.base, self.frames, count)
                frames += count
        return monotonic_ns() - began, frames

    def copy_again(self, uint64_t turns, uint16_t burst, uint32_t size, uint32_t pair=0):
        """The bare copies of `receive_again`: *size* bytes of each buffer that is next in the ring. Nanoseconds."""
        cdef vhost_port *p = <vhost_port *>self.port.base
        cdef vring *v = &p.queues[2 * pair + TRANSMIT_RING].ring
        cdef uint64_t began = monotonic_ns(), at = 0, _i
        cdef uint32_t i
        with nogil:
            for _i in range(turns):
                for i in range(burst):
                    memcpy(p.heads[i], guest_range(&p.memory, v.descriptors[at & v.mask].address, size), size)
                    at += 1
        return monotonic_ns() - began

    def send_again(self, uint64_t turns, frames, uint32_t pair=0):
        """Have the guest offer as many chains as its ring has, and send it the same *frames*: *turns* times.

        How many nanoseconds it took, and how many frames were sent.
        """
        cdef vhost_port *p = <vhost_port *>self.port.base
        cdef vring *v = &p.queues[2 * pair + RECEIVE_RING].ring
        cdef port_frame *each[BURST_MAX]
        cdef uint64_t before = self.counts.tx_frames
        cdef uint64_t began, _i
        cdef uint32_t count = 0
        kept = []
        for header, body in frames:
            each[count] = &self.frames[count]
            kept.append(_set(each[count], &self.outgoing[count], header, body, 65536))
            count += 1
        began = monotonic_ns()
        with nogil:
            for _i in range(turns):
                abx_store_release_u16(&v.available[1], <uint16_t>(v.next + v.size))
                p.base.ops.tx_burst(&p.base, each, count)
                p.base.ops.tx_flush(&p.base)
        return monotonic_ns() - began, self.counts.tx_frames - before


cdef tuple _shown(port_frame *f):
    body = (<char *>f.head.data)[: f.head.size]
    sizes = [f.head.size]
    for i in range(f.rest_count):
        body += (<char *>f.rest[i].iov_base)[: f.rest[i].iov_len]
        sizes.append(f.rest[i].iov_len)
    assert len(body) == f.size and f.head.flags == FRAME_VNET
    return (<char *>f.head.data - FRAME_VNET_BYTES)[:FRAME_VNET_BYTES], body, sizes


cdef bytes _set(port_frame *f, sent_frame *memory, bytes header, bytes body, size_t part_bytes):
    """Describe a frame in *memory*; what is returned holds the rest of it."""
    cdef bytes rest = body[HEAD_BYTES:]
    cdef size_t left = len(rest)
    cdef uint8_t *at = <uint8_t *>(<char *>rest)
    memset(f, 0, sizeof(f[0]))
    memcpy(memory.head, <const char *>header, FRAME_VNET_BYTES)
    f.head.data = memory.head + FRAME_VNET_BYTES
    f.head.size = min(len(body), HEAD_BYTES)
    f.head.flags = FRAME_VNET
    memcpy(f.head.data, <const char *>body, f.head.size)
    f.rest = memory.rest
    f.size = len(body)
    while left:
        memory.rest[f.rest_count].iov_base = at
        memory.rest[f.rest_count].iov_len = min(left, part_bytes)
        at += memory.rest[f.rest_count].iov_len
        left -= memory.rest[f.rest_count].iov_len
        f.rest_count += 1
    return rest


cdef class Walker:
    """The device side of one ring in *memory*, without a port. Addresses are the front end's."""

    cdef vring v
    cdef GuestMemory memory
    cdef iovec parts[CHAIN_MAX]

    def __cinit__(
        self, GuestMemory memory not None, uint32_t size, uint64_t descriptors, uint64_t available, uint64_t used,
        *, bint indirect=True, bint event_idx=False, uint16_t base=0,
    ):
        cdef vring_layout layout
        cdef int status
        self.memory = memory
        memset(&self.v, 0, sizeof(self.v))
        self.v.kick_fd = self.v.call_fd = -1
        layout.descriptors, layout.available, layout.used = descriptors, available, used
        status = vring_start(&self.v, &memory.memory, size, &layout, event_idx)
        if status < 0:
            raise OSError(-status, "no such ring")
        self.v.indirect = indirect
        vring_begin(&self.v, base)

    def available(self):
        """The fault, and how many chains there are."""
        cdef uint32_t count = 0
        cdef RingFault fault = vring_available(&self.v, &count)
        return fault, count

    def take(self):
        """Walk the next chain, which must be there: the fault, head, counts and bytes read and written, part sizes."""
        cdef vring_chain chain
        cdef uint16_t head = vring_head(&self.v, 0)
        cdef RingFault fault = vring_walk(&self.v, head, self.parts, CHAIN_MAX, &chain)
        self.v.next += 1
        if fault != FAULT_NONE:
            return fault, head, None
        count = chain.readable + chain.writable
        content = [(<char *>self.parts[i].iov_base)[: self.parts[i].iov_len] for i in range(count)]
        return fault, head, (chain.readable, chain.writable, content)
