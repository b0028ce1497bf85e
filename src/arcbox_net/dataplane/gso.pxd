"""Cutting a super-frame into segments. gso.pyx is for port_send, towards ports that do not take super-frames."""

from arcbox_net.dataplane.offload_layout cimport offload_layout
from arcbox_net.dataplane.port cimport port, port_frame
from arcbox_net.wire.virtio_net cimport virtio_net_header

cdef enum:
    SEGMENTS_MAX = 512  # of a super-frame: 64 KB at an MSS of 128


cdef void gso_send(
    port *out, const port_frame *f, const virtio_net_header *offload, const offload_layout *layout
) noexcept nogil
