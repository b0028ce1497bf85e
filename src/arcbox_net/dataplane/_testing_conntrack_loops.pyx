"""Loops over the table of flows for benchmarks: what a NAT does to the table for a packet, and the least it could do.

Flow *n* of a benchmark is a datagram flow whose keys `flow_keys` makes from *n* alone.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.abi.prefetch cimport abx_prefetch_to_write
from arcbox_net.dataplane._testing_conntrack cimport Table
from arcbox_net.dataplane.conntrack cimport (
    conntrack, conntrack_candidate, conntrack_expire, conntrack_find, conntrack_hash, conntrack_is_behind,
    conntrack_open, conntrack_prefetch, conntrack_verify,
)
from arcbox_net.dataplane.flow cimport (
    FLOW_NONE, HALF_NONE, KEY_DIRECTION_SHIFT, KEY_PROTOCOL_SHIFT, KEY_VALID_SHIFT, half_count, half_flow,
)
from arcbox_net.dataplane.verdict cimport INBOUND
from arcbox_net.wire.udp cimport PROTOCOL_UDP

cdef enum:
    BURST = 32
    GUESTS = 200
    PACKET_BYTES = 64

cdef struct packet_key:
    uint64_t addresses
    uint64_t rest


cdef void flow_keys(uint32_t n, packet_key *original, packet_key *reply) noexcept nogil:
    """A guest's 1,000 ports to one remote address, then the next guest's; then to the next address."""
    cdef uint64_t guest = 0x0040A8C0 + (<uint64_t>(2 + n // 1000 % GUESTS) << 24)
    cdef uint64_t remote = 0x08080808 + n // (1000 * GUESTS)
    cdef uint64_t port = 10000 + n % 1000
    original.addresses = guest | remote << 32
    original.rest = port | <uint64_t>53 << 16
    reply.addresses = remote | <uint64_t>0x017100CB << 32
    reply.rest = 53 | (<uint64_t>n & 0xFFFF) << 16 | <uint64_t>INBOUND << KEY_DIRECTION_SHIFT
    reply.addresses += <uint64_t>(n >> 16) << 56  # another external address for every 65,536 flows
    original.rest |= <uint64_t>PROTOCOL_UDP << KEY_PROTOCOL_SHIFT | <uint64_t>1 << KEY_VALID_SHIFT
    reply.rest |= <uint64_t>PROTOCOL_UDP << KEY_PROTOCOL_SHIFT | <uint64_t>1 << KEY_VALID_SHIFT


def fill(Table table, uint32_t count, uint32_t now_s):
    """Open the flows 0 to *count* - 1; nanoseconds."""
    cdef conntrack *c = &table.table
    cdef half_flow original, reply
    cdef packet_key original_key, reply_key
    cdef uint32_t n, opened = 0
    cdef uint64_t began, ended
    original = reply = half_flow(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    with nogil:
        began = monotonic_ns()
        for n in range(count):
            flow_keys(n, &original_key, &reply_key)
            original.key_addresses, original.key_rest = original_key.addresses, original_key.rest
            reply.key_addresses, reply.key_rest = reply_key.addresses, reply_key.rest
            opened += conntrack_open(c, &original, &reply, n, now_s) != FLOW_NONE
        ended = monotonic_ns()
    if opened != count:
        raise ValueError(f"{opened} of {count} flows were opened")
    return ended - began


def write_flows(Table table, uint32_t count):
    """The least an opening does: write *count* flows' lines one after the other, without keys; nanoseconds."""
    cdef conntrack *c = &table.table
    cdef half_flow template = half_flow(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    cdef uint32_t n
    cdef uint64_t began, ended
    with nogil:
        began = monotonic_ns()
        for n in range(count):
            memcpy(&c.halves[2 * n], &template, sizeof(half_flow))
            memcpy(&c.halves[2 * n + 1], &template, sizeof(half_flow))
            c.cold[n].created_s = n
        ended = monotonic_ns()
    return ended - began


def expire(Table table, uint32_t now_s, uint32_t budget):
    """Expire in steps of *budget* flows until nothing is due: each step's nanoseconds."""
    cdef conntrack *c = &table.table
    cdef uint64_t began, ended
    steps = []
    c.gone = NULL
    while conntrack_is_behind(c, now_s):
        began = monotonic_ns()
        conntrack_expire(c, now_s, budget)
        ended = monotonic_ns()
        steps.append(ended - began)
    return steps


cdef class Packets:
    """One packet for each number of a flow in *flows*, outbound and inbound in turn; flow *n* is number *n* opened."""

    cdef packet_key *keys
    cdef uint32_t *halves
    cdef uint32_t count

    def __cinit__(self, flows):
        cdef packet_key[2] ways
        cdef uint32_t i
        self.count = len(flows)
        if self.count % BURST:
            raise ValueError(f"{self.count} packets are no whole bursts of {BURST}")
        self.keys = <packet_key *>malloc(self.count * sizeof(packet_key))
        self.halves = <uint32_t *>malloc(self.count * sizeof(uint32_t))
        if self.keys == NULL or self.halves == NULL:
            raise MemoryError
        for i in range(self.count):
            flow_keys(flows[i], &ways[0], &ways[1])
            self.keys[i] = ways[i % 2]
            self.halves[i] = 2 * <uint32_t>flows[i] + i % 2

    def __dealloc__(self):
        free(self.keys)
        free(self.halves)

    def find(self, Table table, uint32_t now_s, bint bursts):
        """Find and count every packet, one by one or in bursts; nanoseconds."""
        cdef uint64_t began, ended
        cdef uint32_t found
        with nogil:
            began = monotonic_ns()
            found = self.find_bursts(&table.table, now_s) if bursts else self.find_each(&table.table, now_s)
            ended = monotonic_ns()
        if found != self.count:
            raise ValueError(f"{found} of {self.count} packets belong to a flow")
        return ended - began

    cdef uint32_t find_each(self, conntrack *c, uint32_t now_s) noexcept nogil:
        cdef uint32_t i, half, found = 0
        for i in range(self.count):
            half = conntrack_find(c, self.keys[i].addresses, self.keys[i].rest)
            if half != HALF_NONE:
                found += 1
                c.halves[half].last_seen_s = now_s
                half_count(&c.halves[half], PACKET_BYTES)
        return found

    cdef uint32_t find_bursts(self, conntrack *c, uint32_t now_s) noexcept nogil:
        cdef uint64_t[BURST] hashes
        cdef uint32_t[BURST] candidates
        cdef packet_key *keys
        cdef uint32_t burst, i, half, found = 0
        for burst in range(self.count // <uint32_t>BURST):
            keys = &self.keys[burst * BURST]
            for i in range(<uint32_t>BURST):
                hashes[i] = conntrack_hash(c, keys[i].addresses, keys[i].rest)
                conntrack_prefetch(c, hashes[i])
            for i in range(<uint32_t>BURST):
                candidates[i] = conntrack_candidate(c, hashes[i])
            for i in range(<uint32_t>BURST):
                half = conntrack_verify(c, candidates[i], hashes[i], keys[i].addresses, keys[i].rest)
                if half != HALF_NONE:
                    found += 1
                    c.halves[half].last_seen_s = now_s
                    half_count(&c.halves[half], PACKET_BYTES)
        return found

    def touch(self, Table table, uint32_t now_s, bint bursts):
        """The least a lookup does: the same half flows counted by their numbers, without keys; nanoseconds."""
        cdef conntrack *c = &table.table
        cdef uint64_t began, ended
        cdef uint32_t *halves
        cdef uint32_t burst, i
        with nogil:
            began = monotonic_ns()
            for burst in range(self.count // <uint32_t>BURST):
                halves = &self.halves[burst * BURST]
                if bursts:
                    for i in range(<uint32_t>BURST):
                        abx_prefetch_to_write(&c.halves[halves[i]])
                for i in range(<uint32_t>BURST):
                    c.halves[halves[i]].last_seen_s = now_s
                    half_count(&c.halves[halves[i]], PACKET_BYTES)
            ended = monotonic_ns()
        return ended - began
