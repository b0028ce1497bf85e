"""Taking frames from a guest's transmit queues: headers copied out of its reach, the rest left where it lies.

A burst goes over its chains three times, so that cache misses overlap: heads are read and their descriptors asked
for; chains are walked and their first bytes asked for; headers are copied and checked. What was taken is given back
when the turn ends.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memmove

from arcbox_net.abi.prefetch cimport abx_prefetch
from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRAME_PARTS_MAX, HEAD_BYTES, PORT_DROP_LONG, PORT_DROP_OFFLOAD,
    PORT_DROP_POOL, PORT_DROP_SHORT, PORT_READY, port, port_drop, port_frame,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport POOL_LARGE, pool_acquire, pool_release
from arcbox_net.ports.vhost_user.flow_queues cimport flow_seen
from arcbox_net.ports.vhost_user.vhost_port cimport (
    CHAIN_MAX, FEATURE_CSUM, FEATURE_HOST_ECN, FEATURE_HOST_TSO4, FEATURE_HOST_TSO6, GATHERED_MAX,
    HEAD_OFFSET, PARTS_MAX, TRANSMIT_RING, guest_queue, has_feature, queue_runs, ring_broken, vhost_port,
)
from arcbox_net.ports.vhost_user.vring cimport (
    FAULT_DIRECTION, FAULT_NONE, RingFault, vring_available, vring_chain, vring_finish, vring_head, vring_publish,
    vring_stay_awake, vring_walk,
)
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_NEEDS_CSUM, virtio_net_header,
    virtio_shape_check,
)

cdef struct taken_chain:
    vring_chain chain
    iovec *parts


cdef uint32_t from_guest_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    """Up to *budget* frames; the pairs take turns at being first."""
    cdef vhost_port *p = <vhost_port *>self
    cdef uint32_t most = min(budget, <uint32_t>BURST_MAX)
    cdef uint32_t n = 0, parts = 0, taken = 0, pair, i
    cdef guest_queue *queue
    for i in range(p.pairs):
        pair = (p.turn + i) % p.pairs
        queue = &p.queues[2 * pair + TRANSMIT_RING]
        if queue_runs(p, queue) and taken < most:
            n += _take(p, queue, pair, &frames[n], n, most - taken, &parts)
            taken += queue.taken_count
    p.turn = (p.turn + 1) % p.pairs
    if n == 0 and taken > 0:
        from_guest_release(self, frames, 0)
        if not p.broken:
            self.flags |= PORT_READY
    return n


cdef void from_guest_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    """Give the guest its buffers back."""
    cdef vhost_port *p = <vhost_port *>self
    cdef guest_queue *queue
    cdef uint32_t pair, i
    for i in range(p.gathered_count):
        pool_release(self.owner.buffers, p.gathered[i])
    p.gathered_count = 0
    for pair in range(p.pairs):
        queue = &p.queues[2 * pair + TRANSMIT_RING]
        for i in range(queue.taken_count):
            vring_finish(&queue.ring, queue.taken[i], 0)
        if queue.taken_count:
            queue.taken_count = 0
            vring_publish(&queue.ring)


cdef uint32_t _take(
    vhost_port *p, guest_queue *queue, uint32_t pair, port_frame *frames, uint32_t slot, uint32_t budget,
    uint32_t *parts_used
) noexcept nogil:
    """Take up to *budget* chains; how many of them are frames. Heads go to the slots from *slot* on."""
    cdef taken_chain chains[BURST_MAX]
    cdef uint32_t count, i
    cdef uint32_t n = 0
    cdef RingFault fault = vring_available(&queue.ring, &count)
    if fault == FAULT_NONE and count > 0:
        vring_stay_awake(&queue.ring)
        count = min(count, budget)
        for i in range(count):
            queue.taken[i] = vring_head(&queue.ring, i)
        count = _walk(p, queue, chains, count, parts_used, &fault)
        for i in range(count):
            if _describe(p, &chains[i], p.heads[slot + n] + HEAD_OFFSET, &frames[n]):
                flow_seen(p, &frames[n], pair)
                n += 1
        queue.ring.next += <uint16_t>count
        queue.taken_count = count
    if fault != FAULT_NONE:
        ring_broken(p, queue, fault)
    return n


cdef uint32_t _walk(
    vhost_port *p, guest_queue *queue, taken_chain *chains, uint32_t count, uint32_t *parts_used, RingFault *fault
) noexcept nogil:
    """Check the chains of the heads in `taken`; how many are good before one is not, or parts run out."""
    cdef taken_chain *each
    cdef uint32_t i
    for i in range(count):
        if parts_used[0] > PARTS_MAX - CHAIN_MAX:
            return i
        each = &chains[i]
        each.parts = &p.parts[parts_used[0]]
        fault[0] = vring_walk(&queue.ring, queue.taken[i], each.parts, CHAIN_MAX, &each.chain)
        if fault[0] == FAULT_NONE and each.chain.writable:
            fault[0] = FAULT_DIRECTION
        if fault[0] != FAULT_NONE:
            return i
        abx_prefetch(each.parts[0].iov_base)
        if each.chain.readable > 1:
            abx_prefetch(each.parts[1].iov_base)
        parts_used[0] += each.chain.readable
    return count


cdef inline bint _describe(vhost_port *p, taken_chain *taken, uint8_t *data, port_frame *f) noexcept nogil:
    """Make a frame of a chain, with its head at *data*. False for what is none, which is counted."""
    cdef uint32_t size = taken.chain.readable_bytes - p.header_bytes
    cdef uint32_t parts_left
    cdef iovec *rest = taken.parts
    if taken.chain.readable_bytes < p.header_bytes + FRAME_BYTES_MIN:
        port_drop(&p.base, PORT_DROP_SHORT, 1)
        return False
    if size > FRAME_BYTES_MAX:
        port_drop(&p.base, PORT_DROP_LONG, 1)
        return False
    f.head.data = data
    f.head.size = min(size, <uint32_t>HEAD_BYTES)
    f.head.headroom = HEAD_OFFSET - FRAME_VNET_BYTES
    f.head.l3 = ETHERNET_HEADER_BYTES
    f.head.flags = FRAME_VNET
    f.size = size
    f.from_port = p.base.number
    _copy_out(&rest, data - p.header_bytes, p.header_bytes + f.head.size)
    parts_left = <uint32_t>(taken.parts + taken.chain.readable - rest)
    f.rest = rest
    f.rest_count = <uint16_t>parts_left
    if not _header_check(p, data, size):
        port_drop(&p.base, PORT_DROP_OFFLOAD, 1)
        return False
    if parts_left > FRAME_PARTS_MAX:
        return _gather(p, f)
    return True


cdef inline void _copy_out(iovec **parts, uint8_t *to, uint32_t size) noexcept nogil:
    """Copy the first *size* bytes, which are there, and leave *parts* at what follows them."""
    cdef iovec *part = parts[0]
    cdef size_t chunk
    while size > 0:
        chunk = min(part.iov_len, <size_t>size)
        memcpy(to, part.iov_base, chunk)
        to += chunk
        size -= <uint32_t>chunk
        part.iov_base = <uint8_t *>part.iov_base + chunk
        part.iov_len -= chunk
        if part.iov_len == 0:
            part += 1
    parts[0] = part


cdef inline bint _header_check(vhost_port *p, uint8_t *data, uint32_t size) noexcept nogil:
    """Whether the copied virtio-net header fits its frame; it is left in its place as our ports have it."""
    cdef virtio_net_header header
    if p.header_bytes < FRAME_VNET_BYTES:
        memmove(data - FRAME_VNET_BYTES, data - p.header_bytes, p.header_bytes)
    memcpy(&header, data - FRAME_VNET_BYTES, sizeof(header))
    header.num_buffers = 0
    # That a checksum was verified is for a device to say.
    header.flags &= VIRTIO_NEEDS_CSUM
    memcpy(data - FRAME_VNET_BYTES, &header, sizeof(header))
    if header.flags == 0 and header.gso_type == VIRTIO_GSO_NONE:
        return header.header_length <= size
    return _negotiated(p, &header) and virtio_shape_check(&header, size)


cdef bint _negotiated(const vhost_port *p, const virtio_net_header *header) noexcept nogil:
    """Whether the driver may ask for what it asks for."""
    cdef uint8_t kind = header.gso_type & <uint8_t>~VIRTIO_GSO_ECN
    if not has_feature(p, FEATURE_CSUM) or (header.gso_type & VIRTIO_GSO_ECN and not has_feature(p, FEATURE_HOST_ECN)):
        return False
    if kind == VIRTIO_GSO_NONE:
        return True
    if kind == VIRTIO_GSO_TCPV4:
        return has_feature(p, FEATURE_HOST_TSO4)
    return kind == VIRTIO_GSO_TCPV6 and has_feature(p, FEATURE_HOST_TSO6)


cdef bint _gather(vhost_port *p, port_frame *f) noexcept nogil:
    """Copy the rest of a frame that comes in more parts than ports take into one buffer, to be one part."""
    cdef uint8_t *buffer = NULL
    cdef iovec *part = f.rest
    if p.gathered_count < GATHERED_MAX:
        buffer = pool_acquire(p.base.owner.buffers, POOL_LARGE)
    if buffer == NULL:
        port_drop(&p.base, PORT_DROP_POOL, 1)
        return False
    p.gathered[p.gathered_count] = buffer
    p.gathered_count += 1
    _copy_out(&part, buffer, f.size - f.head.size)
    f.rest[0].iov_base = buffer
    f.rest[0].iov_len = f.size - f.head.size
    f.rest_count = 1
    return True
