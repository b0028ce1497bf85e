"""A port that receives as many frames as it is told to, at no cost, and forgets what it sends: for benchmarks."""

from libc.errno cimport EINVAL
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memset

from arcbox_net.abi.atomics cimport abx_load_relaxed_u64, abx_store_relaxed_u64
from arcbox_net.abi.clock cimport monotonic_ns
from arcbox_net.dataplane.port cimport (
    PORT_READY, PORT_UP, Port, port, port_counters, port_frame, port_message, port_ops, port_sent,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport ETHERNET_HEADER_BYTES, SMALL_FRAME_BYTES

GO = 200  # payload: how many frames, 64 bits

cdef struct flood_port:
    port base
    uint64_t left  # frames to come
    uint32_t size
    uint8_t memory[FRAME_VNET_BYTES + SMALL_FRAME_BYTES]


cdef uint32_t _rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef flood_port *p = <flood_port *>self
    cdef uint32_t count = <uint32_t>min(<uint64_t>budget, p.left)
    cdef uint32_t i
    for i in range(count):
        memset(&frames[i], 0, sizeof(port_frame))
        frames[i].head.data = p.memory + FRAME_VNET_BYTES
        frames[i].head.size = frames[i].size = p.size
        frames[i].head.l3 = ETHERNET_HEADER_BYTES
        frames[i].head.flags = FRAME_VNET
    abx_store_relaxed_u64(&p.left, p.left - count)
    return count


cdef void _rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass


cdef void _tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef uint64_t frame_bytes = 0
    cdef uint32_t i
    for i in range(count):
        frame_bytes += frames[i].size
    port_sent(self, count, frame_bytes)


cdef void _tx_flush(port *self) noexcept nogil:
    pass


cdef int _message(port *self, const port_message *message) noexcept nogil:
    if message.size != sizeof(uint64_t):
        return -EINVAL
    abx_store_relaxed_u64(&(<flood_port *>self).left, (<const uint64_t *>message.payload)[0])
    self.flags |= PORT_READY
    return 0


cdef port_ops OPS = port_ops(
    open=NULL, rx_burst=_rx_burst, rx_release=_rx_release, tx_burst=_tx_burst, tx_flush=_tx_flush, arm=NULL,
    event=NULL, message=_message, tick=NULL, close=NULL,
)


cdef class FloodPort(Port):
    """It receives frames of *size* bytes, all zero, after GO."""

    def __cinit__(self, uint32_t size=60):
        cdef flood_port *p = <flood_port *>calloc(1, sizeof(flood_port))
        if p == NULL:
            raise MemoryError
        assert size <= SMALL_FRAME_BYTES
        self.base = &p.base
        p.size = size
        p.base.ops = &OPS
        p.base.flags = PORT_UP
        p.base.frame_max = SMALL_FRAME_BYTES

    @property
    def left(self):
        """Frames yet to be received."""
        return abx_load_relaxed_u64(&(<flood_port *>self.base).left)


def calls_alone(FloodPort source not None, FloodPort sink not None, uint64_t frames):
    """Nanoseconds for *frames* from one port to the other in a loop that does nothing else, and in no worker."""
    cdef port_counters counters
    cdef port_frame made[BURST_MAX]
    cdef port_frame *each[BURST_MAX]
    cdef uint64_t started = monotonic_ns()
    cdef uint32_t count, i
    sink.base.counters = &counters
    (<flood_port *>source.base).left = frames
    with nogil:
        while True:
            count = _rx_burst(source.base, made, BURST_MAX)
            if count == 0:
                break
            for i in range(count):
                each[i] = &made[i]
            _tx_burst(sink.base, each, count)
            _rx_release(source.base, made, count)
    sink.base.counters = NULL
    return monotonic_ns() - started
