"""The device side of a guest's virtio-net queues, in the guest's own memory, as a port.

What the guest sends is copied only in its first 256 bytes; the rest goes from the guest's buffers to where it is sent,
and the guest gets its buffers back when the worker's turn ends. What is sent to the guest is copied once.
A session (session.py) tells it, by messages, what it has agreed on with the front end.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from arcbox_net.dataplane.port cimport PORT_POLLED, PORT_READY, Port, port, port_ops
from arcbox_net.ports.vhost_user.calls cimport calls_open
from arcbox_net.ports.vhost_user.from_guest cimport from_guest_burst, from_guest_release
from arcbox_net.ports.vhost_user.port_control cimport port_control, port_reset
from arcbox_net.ports.vhost_user.to_guest cimport to_guest_burst, to_guest_flush
from arcbox_net.ports.vhost_user.vhost_port cimport (
    FLOWS_MAX, PAIRS_MAX, RINGS_MAX, TRANSMIT_RING, queue_runs, vhost_port,
)
from arcbox_net.ports.vhost_user.vring cimport vring_call_again, vring_sleep

from arcbox_net.errors import ConfigError

cdef enum:
    CACHE_LINE_BYTES = 64

cdef port_ops vhost_ops


cdef void _event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    """A kick: something is in some ring."""
    self.flags |= PORT_READY


cdef bint _arm(port *self) noexcept nogil:
    """Have the guest kick. A ring may stay armed when another has something: it kicks once too often."""
    cdef vhost_port *p = <vhost_port *>self
    cdef uint32_t pair
    _call_again(self)
    for pair in range(p.pairs):
        if queue_runs(p, &p.queues[2 * pair + TRANSMIT_RING]):
            if not vring_sleep(&p.queues[2 * pair + TRANSMIT_RING].ring):
                self.flags |= PORT_READY
                return False
    return True


cdef void _call_again(port *self) noexcept nogil:
    """No call waits for another frame: it is tried before the worker sleeps, and from then on in ticks."""
    cdef vhost_port *p = <vhost_port *>self
    cdef uint32_t i
    for i in range(2 * p.pairs):
        if queue_runs(p, &p.queues[i]):
            vring_call_again(&p.queues[i].ring)


vhost_ops.rx_burst = from_guest_burst
vhost_ops.rx_release = from_guest_release
vhost_ops.tx_burst = to_guest_burst
vhost_ops.tx_flush = to_guest_flush
vhost_ops.arm = _arm
vhost_ops.event = _event
vhost_ops.message = port_control
vhost_ops.tick = _call_again
vhost_ops.close = port_reset


cdef class VhostUserPort(Port):
    """A guest with up to *pairs* pairs of queues. Nothing is there until messages say so.

    *frame_max* is the MTU and 14. Guest memory that its owner could shorten under us, which would end the process,
    is only mapped with *unsealed*. Raises ConfigError for a number of pairs that cannot be, and KernelError.
    """

    def __cinit__(self, *, uint32_t frame_max=1514, uint32_t pairs=1, bint unsealed=False):
        cdef vhost_port *p
        cdef void *memory
        cdef uint32_t i
        if not 1 <= pairs <= PAIRS_MAX:
            raise ConfigError(f"{pairs} pairs of queues, expected 1 to {PAIRS_MAX}", field="pairs", value=pairs)
        calls_open()
        if posix_memalign(&memory, CACHE_LINE_BYTES, sizeof(vhost_port)) != 0:
            raise MemoryError
        memset(memory, 0, sizeof(vhost_port))
        p = <vhost_port *>memory
        self.base = &p.base
        self.base.ops = &vhost_ops
        self.base.flags = PORT_POLLED
        self.base.frame_max = frame_max
        p.pairs = pairs
        p.unsealed = unsealed
        for i in range(<uint32_t>RINGS_MAX):
            p.queues[i].ring.kick_fd = p.queues[i].ring.call_fd = -1
        for i in range(<uint32_t>FLOWS_MAX):
            p.flow_pairs[i] = i % pairs
        port_reset(self.base)  # as each front end finds it
