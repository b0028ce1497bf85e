"""The one way to a port: what it takes goes on as it is, everything else is made to fit, or dropped and counted."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MIN, PORT_DROP_DOWN, PORT_DROP_OFFLOAD, PORT_DROP_SHORT, PORT_DROP_TOO_BIG, PORT_UP,
    TAKES_CSUM, TAKES_ECN, TAKES_TSO4, TAKES_TSO6, TAKES_USO, port, port_drop, port_frame, port_is_touched,
)
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM,
    virtio_net_header,
)


cdef void port_send(port *out, port_frame **frames, uint32_t count) noexcept nogil:
    """Send *frames* by *out*, in their order. They stay the caller's, as in `tx_burst`."""
    cdef port_frame *fitting[BURST_MAX]
    cdef uint32_t i, n = 0
    if not out.flags & PORT_UP:
        port_drop(out, PORT_DROP_DOWN, count)
        return
    port_is_touched(out)
    for i in range(count):
        if not _fits(out, frames[i]):
            continue
        fitting[n] = frames[i]
        n += 1
        if n == BURST_MAX:
            out.ops.tx_burst(out, fitting, n)
            n = 0
    if n:
        out.ops.tx_burst(out, fitting, n)


cdef bint _fits(port *out, const port_frame *f) noexcept nogil:
    cdef virtio_net_header offload
    offload_read(&f.head, &offload)
    if f.size < FRAME_BYTES_MIN:
        port_drop(out, PORT_DROP_SHORT, 1)
    elif offload.gso_type == VIRTIO_GSO_NONE and f.size > out.frame_max:
        port_drop(out, PORT_DROP_TOO_BIG, 1)
    elif _needs(&offload) & ~out.takes:
        port_drop(out, PORT_DROP_OFFLOAD, 1)
    else:
        return True
    return False


cdef uint32_t _needs(const virtio_net_header *offload) noexcept nogil:
    """What a port has to take to be sent a frame with this header."""
    cdef uint32_t needs = TAKES_CSUM if offload.flags & VIRTIO_NEEDS_CSUM else 0
    cdef int kind = offload.gso_type & ~VIRTIO_GSO_ECN
    if offload.gso_type & VIRTIO_GSO_ECN:
        needs |= TAKES_ECN
    if kind == VIRTIO_GSO_TCPV4:
        needs |= TAKES_TSO4
    elif kind == VIRTIO_GSO_TCPV6:
        needs |= TAKES_TSO6
    elif kind == VIRTIO_GSO_UDP_L4:
        needs |= TAKES_USO
    return needs
