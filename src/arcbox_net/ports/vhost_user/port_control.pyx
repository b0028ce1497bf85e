"""What a session tells a vhost-user port: features, memory, rings. Messages are in port_messages.pxd.

They come between turns of the worker, when no frame is in flight and no ring is in use: so memory can change, and a
stopped ring has given back whatever was taken from it. A ring's descriptor that comes with a message is the port's from
the answer on, unless the answer is negative; a region's stays the session's, which closes it after the port let go of
the memory: whoever is last has to give all of that back.
"""

from libc.errno cimport EBUSY, EFAULT, EINVAL
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ
from arcbox_net.abi.files cimport close
from arcbox_net.dataplane.port cimport (
    PORT_READY, PORT_UP, TAKES_CSUM, TAKES_ECN, TAKES_TSO4, TAKES_TSO6, port, port_message,
)
from arcbox_net.dataplane.worker cimport worker_unwatch, worker_watch
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.guest_memory cimport (
    guest_memory, guest_memory_add, guest_memory_clear, guest_memory_remove,
)
from arcbox_net.ports.vhost_user.port_messages cimport (
    MESSAGE_FEATURES, MESSAGE_MEMORY_ADD, MESSAGE_MEMORY_COMMIT, MESSAGE_MEMORY_DISCARD, MESSAGE_MEMORY_REMOVE,
    MESSAGE_MEMORY_STAGE, MESSAGE_RESET, MESSAGE_RING_CALL, MESSAGE_RING_ENABLE, MESSAGE_RING_KICK, MESSAGE_RING_START,
    MESSAGE_RING_STOP, START_ENABLED, START_RESUMES, region_name, region_payload, ring_fd, ring_number, ring_start,
)
from arcbox_net.ports.vhost_user.vhost_port cimport (
    FEATURE_EVENT_IDX, FEATURE_GUEST_CSUM, FEATURE_GUEST_ECN, FEATURE_GUEST_TSO4, FEATURE_GUEST_TSO6,
    FEATURE_INDIRECT_DESC, FEATURE_MRG_RXBUF, FEATURE_VERSION_1, RECEIVE_RING, guest_queue, has_feature, queue_runs,
    vhost_port,
)
from arcbox_net.ports.vhost_user.vring cimport (
    vring_begin, vring_find, vring_layout, vring_publish, vring_start, vring_used_index,
)

cdef enum:
    LEGACY_HEADER_BYTES = 10

cdef union payload:  # as many bytes as there are, of the kind's struct
    uint64_t features
    region_payload region
    region_name name
    ring_start start
    ring_fd fd
    ring_number number


cdef int port_control(port *self, const port_message *message) noexcept nogil:
    cdef vhost_port *p = <vhost_port *>self
    cdef payload body
    cdef size_t wanted = _payload_size(message.kind)
    cdef int status
    if message.size != wanted:
        return -EINVAL
    memcpy(&body, message.payload, wanted)
    if message.kind == MESSAGE_FEATURES:
        status = _set_features(p, body.features)
    elif message.kind < MESSAGE_RING_START:
        status = _change_memory(p, message.kind, &body)
    elif message.kind == MESSAGE_RESET:
        port_reset(self)
        status = 0
    else:
        status = _change_ring(p, message.kind, &body)
    _tell_state(p)
    return status


cdef void port_reset(port *self) noexcept nogil:
    """Stop all rings, unmap the guest's memory, close every descriptor."""
    cdef vhost_port *p = <vhost_port *>self
    cdef uint32_t i
    for i in range(2 * p.pairs):
        if p.queues[i].ring.started:
            _stop_ring(p, &p.queues[i])
        p.queues[i].ring.enabled = False
    p.broken = False
    guest_memory_clear(&p.memory)
    guest_memory_clear(&p.staged)
    _set_features(p, 0)
    _tell_state(p)


cdef size_t _payload_size(uint32_t kind) noexcept nogil:
    """What a message of that kind has; a size that no message has for kinds that do not exist."""
    if kind == MESSAGE_FEATURES:
        return sizeof(uint64_t)
    if kind == MESSAGE_MEMORY_STAGE or kind == MESSAGE_MEMORY_ADD:
        return sizeof(region_payload)
    if kind == MESSAGE_MEMORY_REMOVE:
        return sizeof(region_name)
    if kind == MESSAGE_RING_START:
        return sizeof(ring_start)
    if kind == MESSAGE_RING_CALL or kind == MESSAGE_RING_KICK:
        return sizeof(ring_fd)
    if kind == MESSAGE_RING_ENABLE or kind == MESSAGE_RING_STOP:
        return sizeof(ring_number)
    if kind == MESSAGE_MEMORY_COMMIT or kind == MESSAGE_MEMORY_DISCARD or kind == MESSAGE_RESET:
        return 0
    return <size_t>-1


cdef int _set_features(vhost_port *p, uint64_t features) noexcept nogil:
    """What driver and device agree on. It does not change while a ring runs."""
    cdef uint32_t i
    for i in range(2 * p.pairs):
        if p.queues[i].ring.started and features != p.features:
            return -EBUSY
    p.features = features
    p.mergeable = has_feature(p, FEATURE_MRG_RXBUF)
    p.header_bytes = LEGACY_HEADER_BYTES
    if p.mergeable or has_feature(p, FEATURE_VERSION_1):
        p.header_bytes = FRAME_VNET_BYTES
    p.base.takes = 0
    if has_feature(p, FEATURE_GUEST_CSUM):
        p.base.takes = TAKES_CSUM
        if has_feature(p, FEATURE_GUEST_TSO4):
            p.base.takes |= TAKES_TSO4
        if has_feature(p, FEATURE_GUEST_TSO6):
            p.base.takes |= TAKES_TSO6
        if has_feature(p, FEATURE_GUEST_ECN):
            p.base.takes |= TAKES_ECN
    return 0


cdef int _change_memory(vhost_port *p, uint32_t kind, const payload *body) noexcept nogil:
    cdef int status
    if kind == MESSAGE_MEMORY_STAGE:
        return _map(p, &p.staged, &body.region)
    if kind == MESSAGE_MEMORY_ADD:
        return _map(p, &p.memory, &body.region)
    if kind == MESSAGE_MEMORY_DISCARD:
        guest_memory_clear(&p.staged)
        return 0
    if kind == MESSAGE_MEMORY_REMOVE:
        status = guest_memory_remove(&p.memory, body.name.gpa, body.name.size, body.name.user)
        return status if status < 0 else _find_rings(p)
    guest_memory_clear(&p.memory)
    p.memory = p.staged
    memset(&p.staged, 0, sizeof(guest_memory))
    return _find_rings(p)


cdef int _map(const vhost_port *p, guest_memory *memory, const region_payload *region) noexcept nogil:
    return guest_memory_add(
        memory, region.gpa, region.size, region.user, region.offset, region.fd, p.unsealed
    )


cdef int _find_rings(vhost_port *p) noexcept nogil:
    """Look up in the new memory where the rings are. One that is not there any more is stopped: -EFAULT."""
    cdef int status = 0
    cdef uint32_t i
    for i in range(2 * p.pairs):
        if p.queues[i].ring.started and vring_find(&p.queues[i].ring) < 0:
            _forget_ring(p, &p.queues[i])
            status = -EFAULT
    return status


cdef int _change_ring(vhost_port *p, uint32_t kind, const payload *body) noexcept nogil:
    cdef guest_queue *queue
    if body.number.index >= 2 * p.pairs:
        return -EINVAL
    queue = &p.queues[body.number.index]
    if kind == MESSAGE_RING_START:
        return _start_ring(p, queue, &body.start)
    if kind == MESSAGE_RING_ENABLE:
        queue.ring.enabled = body.number.value != 0
        return 0
    if not queue.ring.started:
        return -EINVAL
    if kind == MESSAGE_RING_STOP:
        return _stop_ring(p, queue)
    if kind == MESSAGE_RING_KICK:
        return _change_kick(p, queue, body.fd.fd)
    _close(queue.ring.call_fd)
    queue.ring.call_fd = body.fd.fd
    queue.ring.call_due = True  # whoever changes the descriptor may have missed a call
    return 0


cdef int _start_ring(vhost_port *p, guest_queue *queue, const ring_start *start) noexcept nogil:
    cdef vring_layout layout
    cdef int status
    if queue.ring.started:
        return -EBUSY
    layout.descriptors = start.descriptors
    layout.available = start.available
    layout.used = start.used
    status = vring_start(&queue.ring, &p.memory, start.size, &layout, has_feature(p, FEATURE_EVENT_IDX))
    if status == 0:
        status = _watch(p, queue, start.kick_fd)
    if status < 0:
        return status
    queue.ring.indirect = has_feature(p, FEATURE_INDIRECT_DESC)
    queue.ring.kick_fd = start.kick_fd
    queue.ring.call_fd = start.call_fd
    queue.ring.enabled = queue.ring.enabled or start.flags & START_ENABLED != 0
    queue.lacking = 0
    vring_begin(
        &queue.ring, vring_used_index(&queue.ring) if start.flags & START_RESUMES else <uint16_t>start.base
    )
    return 0


cdef int _stop_ring(vhost_port *p, guest_queue *queue) noexcept nogil:
    """Where the next entry of the available ring would have been taken: all before it are used."""
    vring_publish(&queue.ring)
    _forget_ring(p, queue)
    return queue.ring.next


cdef void _forget_ring(vhost_port *p, guest_queue *queue) noexcept nogil:
    """Touch the guest's memory no more."""
    _end_kick(p, queue)
    _close(queue.ring.call_fd)
    queue.ring.call_fd = -1
    queue.ring.started = False


cdef int _change_kick(vhost_port *p, guest_queue *queue, int fd) noexcept nogil:
    cdef int status = _watch(p, queue, fd)
    if status == 0:
        _end_kick(p, queue)
        queue.ring.kick_fd = fd
    return status


cdef void _end_kick(vhost_port *p, guest_queue *queue) noexcept nogil:
    if queue.ring.kick_fd >= 0:
        worker_unwatch(&p.base, queue.ring.kick_fd)
        close(queue.ring.kick_fd)
    queue.ring.kick_fd = -1


cdef int _watch(vhost_port *p, guest_queue *queue, int fd) noexcept nogil:
    """Wait for kicks of a transmit ring, which cannot do without; those of receive rings are of no interest.

    Edge-triggered: an eventfd need not be read to be heard again.
    """
    cdef uint32_t index = <uint32_t>(queue - p.queues)
    if index % 2 == RECEIVE_RING:
        return 0
    return worker_watch(&p.base, fd, POLL_READ | POLL_EDGE, index) if fd >= 0 else -EINVAL


cdef void _close(int fd) noexcept nogil:
    if fd >= 0:
        close(fd)


cdef void _tell_state(vhost_port *p) noexcept nogil:
    """A guest that may transmit or receive is there; what it has made available is looked at without a kick."""
    cdef uint32_t i
    p.base.flags &= ~PORT_UP
    for i in range(2 * p.pairs):
        if queue_runs(p, &p.queues[i]):
            p.base.flags |= PORT_UP | PORT_READY
