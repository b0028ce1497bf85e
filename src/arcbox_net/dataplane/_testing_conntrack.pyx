"""The table of flows and its index for tests: raw keys, a clock in hand, one Python call for each C function."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.conntrack cimport (
    conntrack_bytes, conntrack_candidate, conntrack_close, conntrack_expire, conntrack_expires_s, conntrack_find,
    conntrack_free, conntrack_hash, conntrack_init, conntrack_is_behind, conntrack_next, conntrack_open,
    conntrack_prefetch, conntrack_verify, flow_timeouts,
)
from arcbox_net.dataplane.flow cimport FLOW_NONE, HALF_NONE, half_count, half_flow
from arcbox_net.dataplane.slot_index cimport (
    SLOT_NONE, hash_mix, slot_first, slot_index, slot_index_free, slot_index_init, slot_insert, slot_next, slot_remove,
)
from arcbox_net.dataplane.tcp_state cimport flow_track, tcp_state
from arcbox_net.wire.octets cimport order_u16

TCP_STATES = ("opening", "established", "half closed", "closing", "reset")


def mix(uint64_t k0, uint64_t k1, uint64_t seed0, uint64_t seed1):
    """`hash_mix`."""
    cdef uint64_t[2] seed = [seed0, seed1]
    return hash_mix(k0, k1, seed)


cdef class SlotIndex:
    """An index of entries 0 to *ids_max* - 1 by hashes."""

    cdef slot_index index

    def __cinit__(self, uint32_t ids_max):
        if not slot_index_init(&self.index, ids_max, ids_max):
            raise MemoryError

    def __dealloc__(self):
        slot_index_free(&self.index)

    def insert(self, uint64_t hash, uint32_t entry):
        """Whether there was a slot for it."""
        return bool(slot_insert(&self.index, hash, entry))

    def remove(self, uint64_t hash, uint32_t entry):
        """Whether it was there."""
        return bool(slot_remove(&self.index, hash, entry))

    def candidates(self, uint64_t hash):
        """All entries that may have this hash, in the order of the search."""
        cdef uint32_t distance = 0
        found = []
        while (entry := slot_next(&self.index, hash, &distance)) != <uint32_t>SLOT_NONE:
            found.append(entry)
        return found

    def first(self, uint64_t hash):
        """The first entry that may have this hash, or None."""
        entry = slot_first(&self.index, hash)
        return None if entry == <uint32_t>SLOT_NONE else entry

    def __len__(self):
        return self.index.used

    @property
    def slots(self):
        """How many, used or not."""
        return self.index.mask + 1


cdef class Table:
    """A table of flows; `gone` lists those that ended. Timeouts in seconds; *ports* maps UDP ports to theirs."""

    def __cinit__(
        self,
        uint32_t flows_max,
        uint32_t cache=0,
        *,
        tuple seed=(0x243F6A8885A308D3, 0x13198A2E03707344),
        uint32_t opening=240,
        uint32_t established=7440,
        uint32_t closing=240,
        uint32_t reset=240,
        uint32_t udp=300,
        uint32_t icmp=60,
        bint inbound_refresh=False,
        dict ports=None,
    ):
        cdef uint64_t[2] words = [seed[0], seed[1]]
        cdef flow_timeouts timeouts
        timeouts.tcp_opening_s, timeouts.tcp_established_s = opening, established
        timeouts.tcp_closing_s, timeouts.tcp_reset_s = closing, reset
        timeouts.udp_s, timeouts.icmp_s = udp, icmp
        timeouts.inbound_refresh = inbound_refresh
        timeouts.port_count = 0
        for port, timeout in (ports or {}).items():
            timeouts.ports[timeouts.port_count].port_be = order_u16(port)
            timeouts.ports[timeouts.port_count].timeout_s = timeout
            timeouts.port_count += 1
        self.gone = []
        if not conntrack_init(&self.table, flows_max, cache, words, &timeouts):
            raise MemoryError
        self.table.gone = note_gone
        self.table.owner = <void *>self

    def __dealloc__(self):
        conntrack_free(&self.table)

    def open(self, tuple original, tuple reply, uint32_t now, uint32_t mapping=0):
        """The new flow's number, or None. A key is its two words."""
        cdef half_flow[2] templates
        for i in range(2):
            templates[i] = half_flow(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
            templates[i].key_addresses, templates[i].key_rest = (original, reply)[i]
        flow = conntrack_open(&self.table, &templates[0], &templates[1], mapping, now)
        return None if flow == <uint32_t>FLOW_NONE else flow

    def find(self, tuple key):
        """The half flow with this key, or None."""
        half = conntrack_find(&self.table, key[0], key[1])
        return None if half == <uint32_t>HALF_NONE else half

    def find_burst(self, list keys):
        """`find` for each of *keys*, in three rounds."""
        hashes = [conntrack_hash(&self.table, key[0], key[1]) for key in keys]
        for hash in hashes:
            conntrack_prefetch(&self.table, hash)
        candidates = [conntrack_candidate(&self.table, hash) for hash in hashes]
        halves = [
            conntrack_verify(&self.table, candidate, hash, key[0], key[1])
            for candidate, hash, key in zip(candidates, hashes, keys, strict=True)
        ]
        return [None if half == <uint32_t>HALF_NONE else half for half in halves]

    def seen(self, uint32_t half, uint32_t now, uint32_t size=0):
        """A datagram of *size* bytes that came the way of *half*."""
        self.table.halves[half].last_seen_s = now
        half_count(&self.table.halves[half], size)

    def track(self, uint32_t half, bytes segment, uint32_t now):
        """The verdict on a TCP segment that came the way of *half*."""
        return flow_track(&self.table, half, 1, <const uint8_t *>segment, len(segment), now)

    def state(self, uint32_t flow):
        """The TCP state's name."""
        return TCP_STATES[tcp_state(self.table.halves[2 * flow].tcp, self.table.halves[2 * flow + 1].tcp)]

    def window(self, uint32_t half):
        """`ack_next` and `window_end`."""
        return self.table.halves[half].ack_next, self.table.halves[half].window_end

    def counters(self, uint32_t half):
        """Packets and bytes."""
        return self.table.halves[half].packets, self.table.halves[half].bytes

    def cold(self, uint32_t flow):
        """Mapping, and the second of opening."""
        return self.table.cold[flow].mapping, self.table.cold[flow].created_s

    def expires(self, uint32_t flow):
        """The first second at which the flow may be ended."""
        return conntrack_expires_s(&self.table, flow)

    def close(self, uint32_t flow):
        """End a live flow."""
        conntrack_close(&self.table, flow)

    def expire(self, uint32_t now, uint32_t budget=0xFFFFFFFF):
        """How many flows ended."""
        return conntrack_expire(&self.table, now, budget)

    def behind(self, uint32_t now):
        """Whether `expire` has something left to do."""
        return bool(conntrack_is_behind(&self.table, now))

    def flows(self, uint32_t budget=64):
        """The numbers of all live flows, listed in steps of *budget*."""
        cdef uint32_t cursor = 0
        found = []
        while cursor < self.table.begun:
            flow = conntrack_next(&self.table, &cursor, budget)
            if flow != <uint32_t>FLOW_NONE:
                found.append(flow)
        return found

    def __len__(self):
        return self.table.flows

    @property
    def stats(self):
        """What the table takes, and what its cache was good for (whole windows)."""
        return {
            "bytes_per_flow": <double>conntrack_bytes(&self.table) / self.table.flows_max,
            "indexed": self.table.index.used,
            "cache_lookups": self.table.cache.lookups,
            "cache_hits": self.table.cache.hits,
            "cache_bypassed": self.table.cache.bypassed,
        }


cdef void note_gone(void *owner, uint32_t flow) noexcept nogil:
    with gil:
        (<Table>owner).gone.append(flow)
