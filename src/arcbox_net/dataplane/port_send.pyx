"""The one way to a port: what it takes goes on as it is, everything else is made to fit, or dropped and counted."""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.gro cimport gro_burst, gro_join
from arcbox_net.dataplane.gso cimport gso_send
from arcbox_net.dataplane.offload cimport offload_read
from arcbox_net.dataplane.offload_layout cimport layout_check, layout_find, offload_layout
from arcbox_net.dataplane.parts cimport parts_begin, parts_cursor, parts_sum, parts_take
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MIN, FRAME_PARTS_MAX, PORT_DROP_DOWN, PORT_DROP_OFFLOAD, PORT_DROP_SHORT, PORT_DROP_TOO_BIG, PORT_UP,
    TAKES_CSUM, TAKES_ECN, TAKES_TSO4, TAKES_TSO6, TAKES_USO, port, port_drop, port_frame, port_is_touched,
)
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET_BYTES
from arcbox_net.wire.checksum cimport checksum_fold
from arcbox_net.wire.octets cimport store_u16_be
from arcbox_net.wire.tcp cimport PROTOCOL_TCP
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_TCPV6, VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM,
    virtio_net_header,
)

cdef enum Fit:
    FITS
    FITS_IN_SEGMENTS
    FITS_NOT  # which is counted


cdef void port_send(port *out, port_frame **frames, uint32_t count) noexcept nogil:
    """Send *frames* by *out*, in the order of each flow. They stay the caller's, as in `tx_burst`.

    A checksum that is to be completed is completed in place, for whoever gets the frame next.
    """
    cdef uint32_t n
    if not out.flags & PORT_UP:
        port_drop(out, PORT_DROP_DOWN, count)
        return
    port_is_touched(out)
    while count:
        n = min(count, <uint32_t>BURST_MAX)
        if n > 1 and out.takes & (TAKES_TSO4 | TAKES_TSO6 | TAKES_USO):
            _send_joined(out, frames, n)
        else:
            _send(out, frames, n)
        frames += n
        count -= n


cdef void _send_joined(port *out, port_frame **frames, uint32_t count) noexcept nogil:
    cdef gro_burst burst
    gro_join(&burst, frames, count, out.takes)
    _send(out, burst.frames, burst.count)


cdef void _send(port *out, port_frame **frames, uint32_t count) noexcept nogil:
    cdef port_frame *fitting[BURST_MAX]
    cdef virtio_net_header offload
    cdef offload_layout layout
    cdef uint32_t i, n = 0
    cdef Fit fit
    for i in range(count):
        fit = _fit(out, frames[i], &offload, &layout)
        if fit == FITS:
            fitting[n] = frames[i]
            n += 1
        elif fit == FITS_IN_SEGMENTS:
            if n:
                out.ops.tx_burst(out, fitting, n)
                n = 0
            gso_send(out, frames[i], &offload, &layout)
    if n:
        out.ops.tx_burst(out, fitting, n)


cdef Fit _fit(port *out, const port_frame *f, virtio_net_header *offload, offload_layout *layout) noexcept nogil:
    if f.size < FRAME_BYTES_MIN:
        port_drop(out, PORT_DROP_SHORT, 1)
        return FITS_NOT
    offload_read(&f.head, offload)
    if offload.flags & VIRTIO_NEEDS_CSUM and not (layout_find(f, layout) and layout_check(layout, offload)):
        port_drop(out, PORT_DROP_OFFLOAD, 1)
        return FITS_NOT
    if _packet_size(f, offload, layout) > out.frame_max:
        port_drop(out, PORT_DROP_TOO_BIG, 1)
        return FITS_NOT
    if not _needs(offload) & ~out.takes:
        return FITS
    if offload.gso_type != VIRTIO_GSO_NONE:
        if _fits_whole(out, f, layout):  # one segment, made beside the frame: another port may get that in many
            offload.gso_size = <uint16_t>layout.payload
        return FITS_IN_SEGMENTS
    if not _complete_checksum(f, offload, layout):
        port_drop(out, PORT_DROP_OFFLOAD, 1)
        return FITS_NOT
    return FITS


cdef bint _fits_whole(const port *out, const port_frame *f, const offload_layout *layout) noexcept nogil:
    """Whether a super-frame may be one packet instead: TCP, which has no borders to keep, within the port's MTU."""
    return out.takes & TAKES_LARGE and layout.protocol == PROTOCOL_TCP and f.size <= out.frame_max


cdef uint32_t _packet_size(
    const port_frame *f, const virtio_net_header *offload, const offload_layout *layout
) noexcept nogil:
    """Of the largest frame that will be on the wire. Super-frames have NEEDS_CSUM, and so a layout."""
    if offload.gso_type == VIRTIO_GSO_NONE:
        return f.size
    return layout.headers + min(layout.payload, <uint32_t>offload.gso_size)


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


cdef bint _complete_checksum(
    const port_frame *f, const virtio_net_header *offload, const offload_layout *layout
) noexcept nogil:
    """Of a frame that is no super-frame. False if its bytes are not there."""
    cdef iovec vectors[1 + FRAME_PARTS_MAX]
    cdef parts_cursor c
    cdef uint32_t n
    cdef uint16_t checksum_be
    parts_begin(&c, f, layout.l4)
    n = parts_take(&c, layout.headers - layout.l4 + layout.payload, vectors, 1 + FRAME_PARTS_MAX)
    if n == 0:
        return False
    # The field has the pseudo header's sum, and is part of what is summed.
    checksum_be = <uint16_t>~checksum_fold(parts_sum(0, vectors, n))
    checksum_be |= <uint16_t>-<int>(checksum_be == 0)  # RFC 768: 0 means "no checksum"; TCP takes both for the same
    store_u16_be(f.head.data + offload.csum_start + offload.csum_offset, checksum_be)
    memset(f.head.data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    return True
