"""The struct of a vhost-user port. port.pyx has its operations; what each direction does is in from_guest, to_guest."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport HEAD_BYTES, PORT_READY, PORT_UP, PortDrop, port
from arcbox_net.dataplane.worker cimport worker_report
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.guest_memory cimport guest_memory
from arcbox_net.ports.vhost_user.port_messages cimport REPORT_RING_BROKEN
from arcbox_net.ports.vhost_user.vring cimport CHAIN_MAX, RingFault, vring

cdef enum:
    PAIRS_MAX = 8
    RINGS_MAX = 2 * PAIRS_MAX
    RECEIVE_RING = 0  # of a pair, named from the guest: what it receives, we send
    TRANSMIT_RING = 1
    HEAD_OFFSET = 128  # of a frame in its slot: headroom, and the virtio-net header
    HEAD_SLOT_BYTES = HEAD_OFFSET + HEAD_BYTES
    PARTS_MAX = 2 * CHAIN_MAX  # of the chains of one burst
    GATHERED_MAX = 4  # frames of a burst that come in too many parts
    WALKS_MAX = 4096  # descriptors looked at between two flushes: 64 frames of 64 KB in buffers of a kilobyte
    FLOWS_MAX = 1024

cdef enum:  # bits of the features that a session negotiates
    FEATURE_CSUM = 0
    FEATURE_GUEST_CSUM = 1
    FEATURE_GUEST_TSO4 = 7
    FEATURE_GUEST_TSO6 = 8
    FEATURE_GUEST_ECN = 9
    FEATURE_HOST_TSO4 = 11
    FEATURE_HOST_TSO6 = 12
    FEATURE_HOST_ECN = 13
    FEATURE_MRG_RXBUF = 15
    FEATURE_INDIRECT_DESC = 28
    FEATURE_EVENT_IDX = 29
    FEATURE_VERSION_1 = 32

cdef struct guest_queue:
    vring ring
    uint32_t taken_count  # of this turn's burst, to be given back at its end
    uint16_t taken[BURST_MAX]
    uint32_t lacking  # bytes of a frame that did not fit what the guest had made available at `seen`; 0: none
    PortDrop lacking_reason

cdef struct vhost_port:
    port base  # first
    uint64_t features
    uint32_t pairs
    uint32_t header_bytes  # of the virtio-net header that the guest uses
    bint mergeable
    bint unsealed
    bint broken  # a ring is: none is served until a reset
    uint32_t turn  # the pair whose guest transmits next
    uint32_t walks  # descriptors of receive queues that were looked at since the last flush
    uint32_t gathered_count
    uint8_t *gathered[GATHERED_MAX]  # buffers of the pool that are frames of this turn
    guest_memory memory
    guest_memory staged
    guest_queue queues[RINGS_MAX]
    uint8_t flow_pairs[FLOWS_MAX]  # on which pair a flow of this hash was last seen
    iovec parts[PARTS_MAX]
    uint8_t heads[BURST_MAX][HEAD_SLOT_BYTES]


cdef inline bint has_feature(const vhost_port *p, uint32_t bit) noexcept nogil:
    return p.features >> bit & 1 != 0


cdef inline bint queue_runs(const vhost_port *p, const guest_queue *queue) noexcept nogil:
    return queue.ring.started and queue.ring.enabled and not p.broken


cdef inline void ring_broken(vhost_port *p, const guest_queue *queue, RingFault fault) noexcept nogil:
    """The guest has lost its port: nothing of it is served any more, and control is told why."""
    p.broken = True
    p.base.flags &= ~(PORT_UP | PORT_READY)
    worker_report(&p.base, REPORT_RING_BROKEN, (queue - p.queues) << 16 | <int>fault)
