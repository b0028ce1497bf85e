"""A frame as it was read, checked, and as what writev and sendmsg take."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport (
    FRAME_BYTES_MAX, FRAME_BYTES_MIN, FRAME_PARTS_MAX, PORT_DROP_LONG, PORT_DROP_OFFLOAD, PORT_DROP_SHORT,
    port, port_drop, port_frame,
)
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_HEADROOM
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES
from arcbox_net.wire.virtio_net cimport virtio_net_header, virtio_shape_check

cdef enum:
    FRAME_VECTORS_MAX = 1 + FRAME_PARTS_MAX


cdef inline bint frame_received(port *p, port_frame *f, uint8_t *data, ssize_t size) noexcept nogil:
    """Describe the *size* bytes at *data*, which have their virtio-net header and BUFFER_HEADROOM ahead of them.

    False if they are no frame, which is counted.
    """
    cdef virtio_net_header offload
    if size < FRAME_BYTES_MIN:
        port_drop(p, PORT_DROP_SHORT, 1)
        return False
    if size > FRAME_BYTES_MAX:
        port_drop(p, PORT_DROP_LONG, 1)
        return False
    memcpy(&offload, data - FRAME_VNET_BYTES, sizeof(offload))
    if not virtio_shape_check(&offload, <size_t>size):
        port_drop(p, PORT_DROP_OFFLOAD, 1)
        return False
    f.head.data = data
    f.head.size = <uint32_t>size
    f.head.headroom = BUFFER_HEADROOM
    f.head.l3 = ETHERNET_HEADER_BYTES
    f.head.flags = FRAME_VNET
    f.rest = NULL
    f.rest_count = 0
    f.from_port = p.number
    f.size = <uint32_t>size
    return True


cdef inline uint32_t frame_vectors(const port_frame *f, iovec *vectors) noexcept nogil:
    """Fill in the frame's bytes, without its virtio-net header; how many vectors it took."""
    vectors[0].iov_base = f.head.data
    vectors[0].iov_len = f.head.size
    if f.rest_count:
        memcpy(&vectors[1], f.rest, f.rest_count * sizeof(iovec))
    return 1 + <uint32_t>f.rest_count
