"""What a port is to its worker, and what a worker is to its ports: the contract between `dataplane/` and `ports/`.

*Frames.* A port hands frames in (`rx_burst`) and takes frames to send (`tx_burst`). A `port_frame` has its first bytes
in memory that no guest can write (`head`), with a checked virtio-net header ahead of them, and the rest where it lay
when it came in, which may be a guest's memory: the rest is copied or sent, never parsed. So a large frame goes from
a guest's buffers to a TAP by one writev. What comes to a receiver has HEAD_BYTES in its head, or all of it if it is
smaller; what comes to `tx_burst` may have fewer, because a segment that was cut off has only its headers there.

*Ownership.* Frames from `rx_burst` are borrowed: they are valid until the worker gives them back by `rx_release`, at
the end of the same turn, in any case. `tx_burst` keeps nothing of what it was given: it sends or copies what it takes,
drops and counts what it cannot, and returns. So a frame can go to many ports, and nobody counts references.

*Time.* The worker reads the clock once a turn (`worker.now_ns`). A port does not block, and does a bounded amount of
work in each of its functions.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.atomics cimport abx_store_relaxed_u64
from arcbox_net.abi.socket cimport iovec
from arcbox_net.memory.frame cimport frame
from arcbox_net.memory.pool cimport pool_cache

cdef enum:
    HEAD_BYTES = 256  # of a frame that came in, in its head: all headers down to TCP's options fit
    FRAME_BYTES_MIN = 14
    FRAME_BYTES_MAX = 65_550  # an Ethernet header, and an IP packet of 65,535 bytes and one to spare
    FRAME_PARTS_MAX = 64  # pieces of memory in `rest`
    PORTS_MAX = 256  # of a worker's table, other workers' ports included
    PORT_WORDS = PORTS_MAX // 64
    PORT_NONE = 0xFFFF
    PORT_DROPS = 32  # room for reasons
    PORT_WATCHES_MAX = 24  # descriptors that one port has watched
    MESSAGE_PAYLOAD_BYTES = 464
    RECEIVER_MESSAGE_FIRST = 100  # kinds below are the worker's
    PORT_MESSAGE_FIRST = 200  # kinds from here on are the port's own

cdef struct port_frame:
    frame head  # always FRAME_VNET, and the header passes virtio_shape_check for `size`
    iovec *rest  # what follows head's bytes
    uint16_t rest_count
    uint16_t from_port
    uint32_t size  # bytes of the frame: head.size and the rest

cdef enum:  # port.takes: what a port can send as it is; the worker changes other frames before tx_burst
    TAKES_CSUM = 1  # VIRTIO_NEEDS_CSUM
    TAKES_TSO4 = 2
    TAKES_TSO6 = 4
    TAKES_ECN = 8  # VIRTIO_GSO_ECN with these
    TAKES_USO = 16

cdef enum:  # port.flags
    PORT_READY = 1  # rx_burst may have frames
    PORT_UP = 2  # its peer is there; frames to a port that is down are dropped
    PORT_TOUCHED = 4  # got frames in this turn, and gets a tx_flush
    PORT_DEAD = 8  # broke its protocol: it is served no more, and control is told
    PORT_POLLED = 16  # a rx_burst that finds nothing costs no system call: the worker may ask often before it sleeps

cpdef enum PortDrop:  # why frames were dropped, one counter each
    PORT_DROP_SHORT  # below FRAME_BYTES_MIN
    PORT_DROP_LONG
    PORT_DROP_OFFLOAD  # a virtio-net header that does not fit its frame
    PORT_DROP_DOWN  # for a port whose peer is not there
    PORT_DROP_FULL  # for a port whose peer does not take them
    PORT_DROP_POOL  # no buffer was left
    PORT_DROP_KERNEL  # the kernel refused it
    PORT_DROP_SOURCE_MAC  # L1
    PORT_DROP_SOURCE_IP  # L4, L5
    PORT_DROP_ARP  # L3
    PORT_DROP_ND  # L5
    PORT_DROP_VLAN  # L6: tags, and link-local control protocols
    PORT_DROP_STORM  # L7
    PORT_DROP_ISOLATED  # L8
    PORT_DROP_TOO_BIG  # above the MTU, and not to be segmented (L9)
    PORT_DROP_NOWHERE  # nobody has its destination
    PORT_DROP_RING  # the ring to another worker was full
    PORT_DROP_DHCP  # a guest that plays DHCP server
    PORT_DROP_EGRESS  # the NAT engine refused it: its own counters say why
    PORT_DROP_WAITING  # nobody has answered for its next hop yet, and no more of the port's may wait for such
    PORT_DROP_REASONS

cdef struct port_counters:  # in memory that others may map; written by the worker alone, read by anyone at any time
    uint64_t rx_frames
    uint64_t rx_bytes
    uint64_t tx_frames
    uint64_t tx_bytes
    uint64_t wakeups  # events of its descriptors
    uint64_t generation  # of the port that these are of; 0: nobody has the number
    uint64_t gap[2]
    uint64_t drops[PORT_DROPS]

cdef struct port_message:  # from control to a port or a worker, in one piece
    uint16_t kind
    uint16_t port
    uint32_t size  # of payload
    uint64_t ticket  # of the answer
    uint8_t payload[MESSAGE_PAYLOAD_BYTES]

cdef struct port
cdef struct worker
cdef struct receiver

cdef struct port_ops:
    # The port has come into a worker: `owner`, `number` and `counters` are set. 0, or a negative errno, and it is out.
    int (*open)(port *self) noexcept nogil
    # Up to *budget* frames that came in. The worker takes PORT_READY away before and sets it again if there were any;
    # a port that used its budget up for frames that it dropped sets it itself. from_port and rx_ counters are the
    # worker's.
    uint32_t (*rx_burst)(port *self, port_frame *frames, uint32_t budget) noexcept nogil
    # The frames of the last rx_burst are no longer used.
    void (*rx_release)(port *self, port_frame *frames, uint32_t count) noexcept nogil
    # Send frames that are within frame_max and need no offload that the port does not take; count them (port_sent).
    void (*tx_burst)(port *self, port_frame **frames, uint32_t count) noexcept nogil
    # End of a turn in which tx_burst was called: send what was gathered, notify the peer.
    void (*tx_flush)(port *self) noexcept nogil
    # The worker is about to sleep: ask to be woken. False if there is work after all.
    bint (*arm)(port *self) noexcept nogil
    # A watched descriptor has events (POLL_READ …); tag is what worker_watch was given. Sets PORT_READY if that is so.
    void (*event)(port *self, uint32_t tag, uint32_t events) noexcept nogil
    # A message of the port's own kinds. The result is control's: 0, or a negative errno.
    int (*message)(port *self, const port_message *message) noexcept nogil
    # Ten times a second, or more often; NULL if it needs none: a worker none of whose ports does sleeps until something
    # happens.
    void (*tick)(port *self) noexcept nogil
    # Leave the worker: give up descriptors, buffers and mappings. The struct itself is freed by its Python object.
    # Of these, open, arm, event, message, tick and close may be NULL.
    void (*close)(port *self) noexcept nogil

cdef struct receiver:  # who gets what a port received: the switch, or the far side of a NAT
    void (*burst)(receiver *self, port *source, port_frame *frames, uint32_t count) noexcept nogil
    # A message of a kind from RECEIVER_MESSAGE_FIRST on, to a port that sends to this receiver. 0, or a negative errno.
    # May be NULL.
    int (*message)(receiver *self, port *source, const port_message *message) noexcept nogil
    # Ten times a second, or more often; may be NULL.
    void (*tick)(receiver *self, uint64_t now_ns) noexcept nogil

cdef struct port:
    const port_ops *ops
    worker *owner  # set while it is in a worker
    receiver *sink
    port_counters *counters
    uint16_t number
    uint16_t flags
    uint32_t takes
    uint32_t frame_max  # bytes of a frame that is not GSO, Ethernet header included
    uint32_t generation  # of this number: an event for the port that had it before is told apart

cdef struct worker:  # what ports see of it: the first member of `worker_loop`
    pool_cache *buffers  # of this thread
    uint64_t now_ns  # CLOCK_MONOTONIC, of this turn
    uint64_t ready[PORT_WORDS]  # a bit for each port that has PORT_READY or PORT_TOUCHED, by number
    uint64_t touched[PORT_WORDS]
    port *ports[PORTS_MAX]  # NULL: no such port


cdef inline void port_drop(port *p, PortDrop reason, uint64_t frames) noexcept nogil:
    cdef uint64_t *count = &p.counters.drops[<int>reason]
    abx_store_relaxed_u64(count, count[0] + frames)


cdef inline void port_sent(port *p, uint64_t frames, uint64_t frame_bytes) noexcept nogil:
    """Count what tx_burst took."""
    abx_store_relaxed_u64(&p.counters.tx_frames, p.counters.tx_frames + frames)
    abx_store_relaxed_u64(&p.counters.tx_bytes, p.counters.tx_bytes + frame_bytes)


cdef inline void port_is_ready(port *p) noexcept nogil:
    """Have its rx_burst called. Within the port's own functions, PORT_READY alone does."""
    p.flags |= PORT_READY
    p.owner.ready[p.number >> 6] |= <uint64_t>1 << (p.number & 63)


cdef inline void port_is_touched(port *p) noexcept nogil:
    """Have its tx_flush called at the end of the turn."""
    p.flags |= PORT_TOUCHED
    p.owner.touched[p.number >> 6] |= <uint64_t>1 << (p.number & 63)


cdef class Port:
    """Owns the struct of one port. A kind of port is a subclass that allocates a larger struct, with `base` first."""

    cdef port *base
    cdef object worker  # the Worker that it is in, or None


cdef class Receiver:
    """Owns the struct of one receiver, as `Port` does of a port. The Worker keeps it as long as a port sends to it."""

    cdef receiver *base
