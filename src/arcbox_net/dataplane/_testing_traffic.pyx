"""Bursts through a NAT engine for benchmarks: frames of a pool that are made and translated without Python.

A frame of 64 bytes is one cache line and has a template. Translating changes frames, so `restore` puts them back before
the next pass: the templates lie together, away from the frames.
Flow *f* is of inside endpoint `f % endpoints` and of its own remote address; odd endpoints speak TCP, even ones UDP.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.dataplane.engine cimport NatEngine
from arcbox_net.dataplane.nat cimport nat_burst
from arcbox_net.dataplane.verdict cimport DROP_FIRST, Direction
from arcbox_net.memory.frame cimport BURST_MAX, frame
from arcbox_net.memory.pool cimport POOL_SMALL, PacketPool, PoolCache, pool_acquire_burst, pool_release_burst
from arcbox_net.memory.table cimport table_allocate, table_release
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ethernet_set_type
from arcbox_net.wire.ipv4 cimport IPV4_HEADER_BYTES, ipv4_protocol, ipv4_set_checksum, ipv4_write
from arcbox_net.wire.octets cimport store_u16, store_u32
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_SYN
from arcbox_net.wire.udp cimport PROTOCOL_UDP

cdef enum:
    FRAME_BYTES = 64
    PAYLOAD_BYTES = FRAME_BYTES - ETHERNET_HEADER_BYTES - IPV4_HEADER_BYTES
    INSIDE = 0x0A000002  # 10.0.0.2, and the guests after it
    OUTSIDE = 0x0B000001  # 11.0.0.1, and the remote addresses after it
    INSIDE_PORT = 1024
    OUTSIDE_PORT = 443
    OUTBOUND_SEQUENCE = 1000
    INBOUND_SEQUENCE = 5000

cdef struct template:
    uint8_t octets[FRAME_BYTES]


cdef class Traffic:
    """*count* frames of *pool* that come from *guests* guests with *endpoints* endpoints in all."""

    cdef PoolCache cache
    cdef frame *frames
    cdef template *templates
    cdef readonly uint32_t count
    cdef uint32_t endpoints
    cdef uint32_t guests

    def __cinit__(self, PacketPool pool, uint32_t count, *, uint32_t endpoints=1024, uint32_t guests=16):
        cdef uint32_t at = 0
        self.cache = PoolCache(pool)
        self.endpoints, self.guests = endpoints, guests
        self.frames = <frame *>table_allocate(count * sizeof(frame))
        self.templates = <template *>table_allocate(count * sizeof(template))
        if self.frames == NULL or self.templates == NULL:
            raise MemoryError
        self.count = count
        while at < count:
            if pool_acquire_burst(self.cache.cache, POOL_SMALL, &self.frames[at], 1) == 0:
                self.count = at
                raise MemoryError(f"the pool has {at} of {count} buffers")
            self.frames[at].size = FRAME_BYTES
            at += 1

    def __dealloc__(self):
        if self.frames != NULL:
            pool_release_burst(self.cache.cache, self.frames, self.count)
        table_release(self.frames, self.count * sizeof(frame))
        table_release(self.templates, self.count * sizeof(template))

    def write(self, const uint32_t[::1] flows, uint8_t tcp_flags):
        """Make frame *i* one that a guest sends on flow `flows[i]`, and restore all."""
        cdef uint32_t i
        for i in range(self.count):
            self._write(i, flows[i], tcp_flags)
        self.restore()

    cdef void _write(self, uint32_t i, uint32_t flow, uint8_t tcp_flags) noexcept:
        cdef uint8_t *ip = self.templates[i].octets + ETHERNET_HEADER_BYTES
        cdef uint8_t *l4 = ip + IPV4_HEADER_BYTES
        cdef uint32_t endpoint = flow % self.endpoints
        memset(self.templates[i].octets, 0, FRAME_BYTES)
        ethernet_set_type(self.templates[i].octets, ETHERTYPE_IPV4)
        ipv4_write(ip, PROTOCOL_TCP if endpoint & 1 else PROTOCOL_UDP, PAYLOAD_BYTES)
        store_u32(ip + 12, INSIDE + endpoint // 2 % self.guests)
        store_u32(ip + 16, OUTSIDE + flow // self.endpoints)
        ipv4_set_checksum(ip)
        store_u16(l4, INSIDE_PORT + endpoint // 2 // self.guests)
        store_u16(l4 + 2, OUTSIDE_PORT)
        if endpoint & 1:
            write_tcp(l4, tcp_flags, OUTBOUND_SEQUENCE, INBOUND_SEQUENCE)
        else:
            store_u16(l4 + 4, PAYLOAD_BYTES)
            store_u16(l4 + 6, 0x1234)

    def turn(self, uint8_t tcp_flags):
        """Make each frame, as it is now, the answer to itself, and restore all."""
        cdef uint32_t i
        cdef uint8_t *ip
        cdef uint8_t *was
        for i in range(self.count):
            ip = self.templates[i].octets + ETHERNET_HEADER_BYTES
            was = self.frames[i].data + ETHERNET_HEADER_BYTES
            ipv4_write(ip, ipv4_protocol(was), PAYLOAD_BYTES)
            memcpy(ip + 12, was + 16, 4)
            memcpy(ip + 16, was + 12, 4)
            ipv4_set_checksum(ip)
            memcpy(ip + IPV4_HEADER_BYTES, was + IPV4_HEADER_BYTES + 2, 2)
            memcpy(ip + IPV4_HEADER_BYTES + 2, was + IPV4_HEADER_BYTES, 2)
            if ipv4_protocol(was) == PROTOCOL_TCP:
                write_tcp(ip + IPV4_HEADER_BYTES, tcp_flags, INBOUND_SEQUENCE, OUTBOUND_SEQUENCE)
        self.restore()

    def restore(self):
        """Make every frame what its template says."""
        cdef uint32_t i
        for i in range(self.count):
            self.frames[i].size = FRAME_BYTES
            memcpy(self.frames[i].data, &self.templates[i], FRAME_BYTES)

    def frame(self, uint32_t i):
        """The template of frame *i*."""
        if i >= self.count:
            raise IndexError(i)
        return bytes(self.templates[i].octets[:FRAME_BYTES])

    def translate(self, NatEngine engine, int direction, uint64_t now_ns, uint32_t burst=BURST_MAX):
        """Nanoseconds that all frames took in bursts of *burst*, and how many were not dropped."""
        cdef uint8_t verdicts[BURST_MAX]
        cdef uint32_t at = 0
        cdef uint32_t passed = 0
        cdef uint32_t i, size
        cdef uint64_t started = monotonic_ns()
        with nogil:
            while at < self.count:
                size = min(burst, self.count - at)
                nat_burst(engine.state, &self.frames[at], size, <Direction>direction, now_ns, verdicts)
                for i in range(size):
                    passed += verdicts[i] < DROP_FIRST
                at += size
        return monotonic_ns() - started, passed

    def copy(self):
        """Nanoseconds that it took to copy every frame to where its template is: a limit of any pass over them."""
        cdef uint32_t i
        cdef uint64_t started = monotonic_ns()
        with nogil:
            for i in range(self.count):
                memcpy(&self.templates[i], self.frames[i].data, FRAME_BYTES)
        return monotonic_ns() - started

    def touch(self):
        """Nanoseconds of an empty loop: one octet of every frame is read and written."""
        cdef uint32_t i
        cdef volatile uint8_t *octet
        cdef uint64_t started = monotonic_ns()
        with nogil:
            for i in range(self.count):
                octet = <volatile uint8_t *>self.frames[i].data
                octet[0] = octet[0]
        return monotonic_ns() - started


cdef inline void write_tcp(uint8_t *l4, uint8_t flags, uint32_t sequence, uint32_t other) noexcept nogil:
    """A header without options. *sequence* is this side's SYN's, *other* the other's; no data was sent."""
    store_u32(l4 + 4, sequence if flags & TCP_SYN else sequence + 1)
    store_u32(l4 + 8, 0 if flags == TCP_SYN else other + 1)
    l4[12] = 5 << 4
    l4[13] = flags
    store_u16(l4 + 14, 64_000)
    store_u16(l4 + 16, 0x1234)
