"""ICMP errors among flows that a test lays down, for what has no Python face."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.conntrack cimport (
    conntrack, conntrack_free, conntrack_init, conntrack_open, flow_timeouts,
)
from arcbox_net.dataplane.flow cimport (
    FLOW_NONE, HALF_HAIRPIN, KEY_DIRECTION_SHIFT, KEY_PROTOCOL_SHIFT, KEY_VALID_SHIFT, TCP_SEEN_ACK, half_flow,
)
from arcbox_net.dataplane.icmp_error cimport icmp_error_translate
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP

cdef enum:
    TUPLE_BYTES = 12  # source and destination address, source and destination port: as in a packet
    ROOM_BYTES = FRAME_VNET_BYTES + 70000


cdef class ErrorFlows:
    """A table of flows, and ICMP errors about their packets."""

    cdef conntrack flows
    cdef uint8_t[ROOM_BYTES] room

    def __cinit__(self):
        cdef flow_timeouts timeouts
        cdef uint64_t[2] seed = [3, 4]
        memset(&timeouts, 0, sizeof(timeouts))
        if not conntrack_init(&self.flows, 64, 0, seed, &timeouts):
            raise MemoryError

    def __dealloc__(self):
        conntrack_free(&self.flows)

    def open(self, int protocol, bytes arrives, bytes leaves, *, bint hairpin=False):
        """A flow whose first packet *arrives* from a guest with these addresses and ports, and *leaves* with others."""
        cdef half_flow original, reply
        _half(&original, <uint8_t>protocol, 0, arrives, leaves)
        _half(&reply, <uint8_t>protocol, 0 if hairpin else 1, _turned(leaves), _turned(arrives))
        original.flags = reply.flags = HALF_HAIRPIN if hairpin else 0
        flow = conntrack_open(&self.flows, &original, &reply, 0, 100)
        if flow == <uint32_t>FLOW_NONE:
            raise ValueError("there is a flow with this key")
        return flow

    def acknowledge(self, uint32_t half, uint32_t ack_next, uint32_t window_end):
        """As a segment of this half flow does that acknowledges up to *ack_next*."""
        self.flows.halves[half].tcp |= TCP_SEEN_ACK
        self.flows.halves[half].ack_next = ack_next
        self.flows.halves[half].window_end = window_end

    def half(self, uint32_t half):
        """All bytes of its state."""
        return (<const char *>&self.flows.halves[half])[:sizeof(half_flow)]

    def translate(self, bytes data, int direction, uint32_t mtu=1500, int l3=0, bytes virtio=b""):
        """The verdict, and the frame as it is then."""
        cdef frame f
        if len(data) > ROOM_BYTES - FRAME_VNET_BYTES or len(virtio) not in (0, FRAME_VNET_BYTES):
            raise ValueError(f"{len(data)} bytes behind {len(virtio)}: a frame has no room for them")
        memset(&f, 0, sizeof(f))
        f.data = &self.room[FRAME_VNET_BYTES]
        f.size = <uint32_t>len(data)
        f.l3 = <uint8_t>l3
        f.flags = FRAME_VNET if virtio else 0
        memcpy(&self.room[0], <const uint8_t *>virtio, len(virtio))
        memcpy(f.data, <const uint8_t *>data, len(data))
        verdict = icmp_error_translate(&self.flows, &f, <Direction>direction, mtu)
        return verdict, (<const char *>f.data)[:len(data)]


cdef void _half(half_flow *half, uint8_t protocol, int direction, bytes key, bytes new) except *:
    cdef const uint8_t *old = key
    cdef const uint8_t *now = new
    cdef uint32_t numbers
    cdef size_t behind = 8 if protocol == PROTOCOL_ICMP else 0  # no pseudo header
    if len(key) != TUPLE_BYTES or len(new) != TUPLE_BYTES:
        raise ValueError("two addresses of 4 bytes and two ports of 2")
    memset(half, 0, sizeof(half_flow))
    memcpy(&half.key_addresses, old, 8)
    memcpy(&numbers, old + 8, 4)
    half.key_rest = (
        numbers | <uint64_t>protocol << KEY_PROTOCOL_SHIFT | <uint64_t>direction << KEY_DIRECTION_SHIFT
        | <uint64_t>1 << KEY_VALID_SHIFT
    )
    memcpy(&half.new_addresses, now, 8)
    memcpy(&half.new_ports, now + 8, 4)
    half.address_delta = _delta(old, now, 8)
    half.l4_delta = _delta(old + behind, now + behind, TUPLE_BYTES - behind)


cdef uint16_t _delta(const uint8_t *old, const uint8_t *new, size_t size) noexcept nogil:
    """What *new* in the place of *old* adds to a sum."""
    return checksum_fold(checksum_add(0, new, size) + <uint16_t>~checksum_fold(checksum_add(0, old, size)))


cdef bytes _turned(bytes ends):
    return ends[4:8] + ends[:4] + ends[10:12] + ends[8:10]
