"""What tests need of compiled code that has no Python face."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.relay.door cimport (
    DOOR_FRAME_BYTES, FLOW_BUCKETS, IPV4_DOOR, door_packet, door_parse, relay_door,
)
from arcbox_net.relay.flow cimport relay_worker, tcp_side, tcp_way
from arcbox_net.relay.guests cimport GUEST_BUCKETS, address_hash
from arcbox_net.relay.lookup cimport flow_hash
from arcbox_net.relay.pipes cimport pipes_free
from arcbox_net.relay.pump cimport pump
from arcbox_net.relay.waiting cimport (
    relay_waiting, waiting_init, waiting_looks, waiting_looks_on, waiting_waited,
)
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold

from arcbox_net.relay.egress import DOOR_COUNTERS as _COUNTERS


def parse(bytes frame):
    """What `door_parse` says of *frame*: the reason to drop it, or where its parts are, counted from its start."""
    cdef uint8_t copy[DOOR_FRAME_BYTES]
    cdef door_packet packet
    cdef int reason
    if len(frame) > DOOR_FRAME_BYTES:
        raise ValueError(f"{len(frame)} bytes: a frame has at most {DOOR_FRAME_BYTES}")
    memcpy(copy, <const uint8_t *>frame, len(frame))
    reason = door_parse(copy, len(frame), &packet)
    if reason:
        return _COUNTERS[reason]
    return {
        "version": 4 if packet.version == IPV4_DOOR else 6,
        "protocol": packet.protocol,
        "ip": packet.ip - copy,
        "ip_size": packet.ip_size,
        "l4": packet.l4 - copy,
        "l4_size": packet.l4_size,
        "payload": packet.payload - copy,
        "payload_size": packet.payload_size,
        "src": bytes(packet.src[:16]),
        "dst": bytes(packet.dst[:16]),
        "src_port": packet.src_port,
        "dst_port": packet.dst_port,
    }


def checksum(bytes packet):
    """The folded sum of *packet*."""
    return checksum_fold(checksum_add(0, <const uint8_t *>packet, len(packet)))


def guest_bucket(uint64_t seed, bytes address):
    """Where a door looks for the guest with this address of 16 bytes."""
    return address_hash(seed, <const uint8_t *>address) % GUEST_BUCKETS


def flow_bucket(uint64_t seed, bytes src, bytes dst, int src_port, int dst_port):
    """Where a door looks for the connection with these ends."""
    cdef relay_door *door = <relay_door *>calloc(1, sizeof(relay_door))
    if door == NULL:
        raise MemoryError
    door.guests.seed = seed
    found = flow_hash(door, <const uint8_t *>src, <const uint8_t *>dst, src_port, dst_port) % FLOW_BUCKETS
    free(door)
    return found


def pump_ended(int source_fd, int sink_fd):
    """One turn from a source whose event said that it has ended; the bytes moved."""
    cdef relay_worker *w = <relay_worker *>calloc(1, sizeof(relay_worker))
    cdef tcp_way way
    cdef tcp_side source, sink
    cdef uint64_t moved
    if w == NULL:
        raise MemoryError
    memset(&way, 0, sizeof(way))
    memset(&source, 0, sizeof(source))
    memset(&sink, 0, sizeof(sink))
    source.fd, sink.fd = source_fd, sink_fd
    source.readable = source.ended = sink.writable = 1
    pump(w, &way, &source, &sink, False)
    moved = way.moved
    pipes_free(w)
    free(w)
    return moved


cdef class Waiting:
    """What a relay thread that waits decides, on a clock of the test's."""

    cdef relay_waiting state

    def __cinit__(self):
        waiting_init(&self.state)

    def waited(self, uint64_t took_ns):
        waiting_waited(&self.state, took_ns)

    def looks(self, uint64_t now_ns):
        return waiting_looks(&self.state, now_ns)

    def looks_on(self, uint64_t began_ns, uint64_t looked_ns, uint64_t now_ns):
        return waiting_looks_on(&self.state, began_ns, looked_ns, now_ns)
