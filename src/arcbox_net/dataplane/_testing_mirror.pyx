"""A port with all the world behind it: it answers each small datagram at once, by its own bytes. For benchmarks."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.port cimport (
    PORT_DROP_FULL, PORT_UP, Port, port, port_drop, port_frame, port_is_ready, port_ops, port_sent,
)
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.wire.ethernet cimport ETHERNET_DESTINATION, ETHERNET_HEADER_BYTES, ETHERNET_SOURCE
from arcbox_net.wire.ipv4 cimport IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_SOURCE, IPV4_TTL, ipv4_set_checksum
from arcbox_net.wire.udp cimport UDP_DESTINATION_PORT, UDP_SOURCE_PORT

cdef enum:
    ANSWERS_MAX = 256  # not yet received
    ANSWER_BYTES_MAX = 256
    DATA_OFFSET = 64
    TTL = 64  # of every answer: a guest may send it back as it is

cdef struct mirror_port:
    port base
    uint32_t made
    uint32_t received
    uint32_t sizes[ANSWERS_MAX]
    uint8_t answers[ANSWERS_MAX][DATA_OFFSET + ANSWER_BYTES_MAX]


cdef void _swap(uint8_t *a, uint8_t *b, size_t size) noexcept nogil:
    cdef uint8_t kept[8]
    memcpy(kept, a, size)
    memcpy(a, b, size)
    memcpy(b, kept, size)


cdef void _answer(uint8_t *data) noexcept nogil:
    cdef uint8_t *ip = data + ETHERNET_HEADER_BYTES
    _swap(data + ETHERNET_DESTINATION, data + ETHERNET_SOURCE, 6)
    _swap(ip + IPV4_SOURCE, ip + IPV4_DESTINATION, 4)
    _swap(ip + IPV4_HEADER_BYTES + UDP_SOURCE_PORT, ip + IPV4_HEADER_BYTES + UDP_DESTINATION_PORT, 2)
    ip[IPV4_TTL] = TTL
    ipv4_set_checksum(ip)


cdef void _tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef mirror_port *p = <mirror_port *>self
    cdef uint64_t sent_bytes = 0
    cdef uint32_t i, slot
    cdef uint8_t *data
    for i in range(count):
        if p.made - p.received == ANSWERS_MAX or frames[i].rest_count or frames[i].size > ANSWER_BYTES_MAX:
            port_drop(self, PORT_DROP_FULL, 1)
            continue
        slot = p.made % ANSWERS_MAX
        data = p.answers[slot] + DATA_OFFSET
        memcpy(data - FRAME_VNET_BYTES, frames[i].head.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES + frames[i].size)
        _answer(data)
        p.sizes[slot] = frames[i].size
        p.made += 1
        sent_bytes += frames[i].size
    port_sent(self, count, sent_bytes)
    port_is_ready(self)


cdef uint32_t _rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef mirror_port *p = <mirror_port *>self
    cdef uint32_t count = min(budget, p.made - p.received)
    cdef uint32_t i, slot
    for i in range(count):
        slot = (p.received + i) % ANSWERS_MAX
        memset(&frames[i], 0, sizeof(port_frame))
        frames[i].head.data = p.answers[slot] + DATA_OFFSET
        frames[i].head.size = frames[i].size = p.sizes[slot]
        frames[i].head.headroom = DATA_OFFSET - FRAME_VNET_BYTES
        frames[i].head.l3 = ETHERNET_HEADER_BYTES
        frames[i].head.flags = FRAME_VNET
    return count


cdef void _rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    (<mirror_port *>self).received += count


cdef void _tx_flush(port *self) noexcept nogil:
    pass


cdef port_ops OPS = port_ops(
    open=NULL, rx_burst=_rx_burst, rx_release=_rx_release, tx_burst=_tx_burst, tx_flush=_tx_flush, arm=NULL,
    event=NULL, message=NULL, tick=NULL, close=NULL,
)


cdef class MirrorPort(Port):
    """It receives what it is sent, with the ends of the Ethernet, IPv4 and UDP headers swapped."""

    def __cinit__(self):
        cdef mirror_port *p = <mirror_port *>calloc(1, sizeof(mirror_port))
        if p == NULL:
            raise MemoryError
        self.base = &p.base
        p.base.ops = &OPS
        p.base.flags = PORT_UP
        p.base.frame_max = ANSWER_BYTES_MAX
