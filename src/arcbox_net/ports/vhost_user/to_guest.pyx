"""Filling a guest's receive queues: one copy, into as many chains as the frame needs and the guest can merge.

A frame for which the guest has made no room is dropped. Nothing waits here: who sends it finds out as on any wire.
So is a frame that comes after more descriptors than a turn may look at: buffers of a byte each are the guest's loss,
not its neighbours'.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    PORT_DROP_DOWN, PORT_DROP_FULL, PORT_DROP_TOO_BIG, PortDrop, port, port_drop, port_frame, port_sent,
)
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.ports.vhost_user.flow_queues cimport flow_pair
from arcbox_net.ports.vhost_user.vhost_port cimport (
    CHAIN_MAX, FEATURE_GUEST_CSUM, RECEIVE_RING, WALKS_MAX, guest_queue, has_feature, queue_runs, ring_broken,
    vhost_port,
)
from arcbox_net.ports.vhost_user.vring cimport (
    FAULT_DIRECTION, FAULT_NONE, RingFault, vring_available, vring_chain, vring_finish, vring_head, vring_publish,
    vring_walk,
)
from arcbox_net.wire.virtio_net cimport virtio_net_header

cdef enum:
    FRAME_BYTES_PADDED = 60  # what Ethernet has at least
    MERGED_MAX = 64  # chains of a frame: 64 KB in buffers of a kilobyte
    AHEAD = 8  # chains whose descriptors are asked for before they are needed

cdef uint8_t padding[FRAME_BYTES_PADDED]  # zeros

cdef struct room:  # what the guest has made available for one frame
    uint32_t count  # of chains
    uint32_t parts_count
    uint32_t size
    vring_chain chains[MERGED_MAX]
    iovec parts[CHAIN_MAX]

cdef struct cursor:
    iovec *part
    size_t offset


cdef void to_guest_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef vhost_port *p = <vhost_port *>self
    cdef guest_queue *queue
    cdef uint64_t sent = 0, sent_bytes = 0
    cdef uint32_t i
    for i in range(count):
        queue = &p.queues[2 * flow_pair(p, frames[i]) + RECEIVE_RING]
        if not queue_runs(p, queue):
            queue = &p.queues[RECEIVE_RING]
        if not queue_runs(p, queue):
            port_drop(self, PORT_DROP_DOWN, 1)
        elif _put(p, queue, frames[i]):
            sent += 1
            sent_bytes += frames[i].size
    port_sent(self, sent, sent_bytes)


cdef void to_guest_flush(port *self) noexcept nogil:
    cdef vhost_port *p = <vhost_port *>self
    cdef uint32_t pair
    p.walks = 0
    for pair in range(p.pairs):
        if p.queues[2 * pair + RECEIVE_RING].ring.started:
            vring_publish(&p.queues[2 * pair + RECEIVE_RING].ring)


cdef bint _put(vhost_port *p, guest_queue *queue, const port_frame *f) noexcept nogil:
    """Copy a frame into chains of the queue. False if it was dropped, which is counted."""
    cdef room found
    cdef virtio_net_header header
    cdef cursor to
    cdef uint32_t size = max(f.size, <uint32_t>FRAME_BYTES_PADDED)
    cdef uint32_t need = p.header_bytes + size
    cdef uint32_t i
    if p.walks >= WALKS_MAX:
        port_drop(&p.base, PORT_DROP_FULL, 1)
        return False
    if not _find_room(p, queue, &found, need):
        return False
    to.part = found.parts
    to.offset = 0
    _offload_for_guest(p, f, &header, found.count)
    _copy_in(&to, <uint8_t *>&header, p.header_bytes)
    _copy_in(&to, f.head.data, f.head.size)
    for i in range(f.rest_count):
        _copy_in(&to, <const uint8_t *>f.rest[i].iov_base, f.rest[i].iov_len)
    if size > f.size:
        _copy_in(&to, padding, size - f.size)
    for i in range(found.count):
        size = min(need, found.chains[i].writable_bytes)
        vring_finish(&queue.ring, found.chains[i].head, size)
        need -= size
    queue.ring.next += <uint16_t>found.count
    # Without these chains there is less room than before, but those behind them may be fewer for as much.
    if queue.lacking_reason == PORT_DROP_TOO_BIG:
        queue.lacking = 0
    return True


cdef bint _find_room(vhost_port *p, guest_queue *queue, room *found, uint32_t need) noexcept nogil:
    """Walk chains until they have *need* bytes; they are taken by whoever fills them. False if the frame is dropped."""
    cdef uint32_t most = MERGED_MAX if p.mergeable else 1
    cdef uint32_t available = <uint16_t>(queue.ring.seen - queue.ring.next)
    cdef vring_chain *chain
    cdef RingFault fault
    found.count = found.parts_count = found.size = 0
    if queue.lacking and need >= queue.lacking:
        available = 0
    while found.size < need:
        if found.count >= available and not _look_again(p, queue, found.count, need, &available):
            return False
        if found.count == most:
            return _lacks(p, queue, need, PORT_DROP_TOO_BIG)
        chain = &found.chains[found.count]
        fault = vring_walk(
            &queue.ring, vring_head(&queue.ring, found.count), &found.parts[found.parts_count],
            CHAIN_MAX - found.parts_count, chain
        )
        p.walks += chain.readable + chain.writable
        vring_head(&queue.ring, found.count + AHEAD)
        if fault == FAULT_NONE and chain.readable:
            fault = FAULT_DIRECTION
        if fault != FAULT_NONE:
            port_drop(&p.base, PORT_DROP_DOWN, 1)
            ring_broken(p, queue, fault)
            return False
        if chain.writable > CHAIN_MAX - found.parts_count:
            return _lacks(p, queue, need, PORT_DROP_TOO_BIG)
        found.parts_count += chain.writable
        found.size += min(chain.writable_bytes, need)
        found.count += 1
    return True


cdef bint _look_again(
    vhost_port *p, guest_queue *queue, uint32_t count, uint32_t need, uint32_t *available
) noexcept nogil:
    """Read the guest's index. False if it has no more than *count* chains: the frame that needs more is dropped."""
    cdef uint16_t seen = queue.ring.seen
    cdef RingFault fault = vring_available(&queue.ring, available)
    if fault != FAULT_NONE:
        port_drop(&p.base, PORT_DROP_DOWN, 1)
        ring_broken(p, queue, fault)
        return False
    if queue.ring.seen != seen:
        queue.lacking = 0
    if count < available[0] and queue.lacking == 0:
        return True
    return _lacks(p, queue, need, PORT_DROP_FULL)


cdef inline bint _lacks(vhost_port *p, guest_queue *queue, uint32_t need, PortDrop reason) noexcept nogil:
    """Drop the frame. Others of its size walk these chains no more, until there are others: the first one's reason."""
    if queue.lacking == 0 or need < queue.lacking:
        queue.lacking = need
        queue.lacking_reason = reason
    port_drop(&p.base, queue.lacking_reason, 1)
    return False


cdef inline void _offload_for_guest(
    const vhost_port *p, const port_frame *f, virtio_net_header *header, uint32_t count
) noexcept nogil:
    memcpy(header, f.head.data - FRAME_VNET_BYTES, sizeof(header[0]))
    header.num_buffers = <uint16_t>count
    if not has_feature(p, FEATURE_GUEST_CSUM):
        header.flags = 0


cdef inline void _copy_in(cursor *to, const uint8_t *bytes, size_t size) noexcept nogil:
    """Write what there is room for, as `_find_room` has seen to."""
    cdef size_t chunk
    while size > 0:
        chunk = min(to.part.iov_len - to.offset, size)
        memcpy(<uint8_t *>to.part.iov_base + to.offset, bytes, chunk)
        bytes += chunk
        size -= chunk
        to.offset += chunk
        if to.offset == to.part.iov_len:
            to.part += 1
            to.offset = 0
