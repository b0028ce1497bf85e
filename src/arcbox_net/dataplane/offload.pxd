"""What a frame's virtio-net header leaves to others: to finish its checksum, or to cut it into segments."""

from libc.string cimport memcpy, memset

from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_NONE, VIRTIO_NEEDS_CSUM, virtio_net_header


cdef inline void offload_read(const frame *f, virtio_net_header *offload) noexcept nogil:
    """The frame's header, or that of a frame which leaves nothing to others."""
    if f.flags & FRAME_VNET:
        memcpy(offload, f.data - FRAME_VNET_BYTES, sizeof(virtio_net_header))
    else:
        memset(offload, 0, sizeof(virtio_net_header))


cdef inline bint offload_is_single(const frame *f) noexcept nogil:
    """Whether it is one packet, and no super-frame."""
    cdef virtio_net_header offload
    offload_read(f, &offload)
    return offload.gso_type == VIRTIO_GSO_NONE


cdef inline bint offload_is_none(const frame *f) noexcept nogil:
    cdef virtio_net_header offload
    offload_read(f, &offload)
    return offload.gso_type == VIRTIO_GSO_NONE and offload.flags & VIRTIO_NEEDS_CSUM == 0
