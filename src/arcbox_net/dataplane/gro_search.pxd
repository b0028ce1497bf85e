"""What is known of a burst while stretches of flows are looked for in it: gro.pyx finds, gro_write.pyx writes them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.offload_layout cimport offload_layout
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.wire.virtio_net cimport virtio_net_header

cdef enum:
    GRO_FLOWS_MAX = 8  # that are looked for at a time; with more, the one that began first is no longer
    NO_FRAME = 0xFFFF

cdef struct gro_segment:  # of each frame of a burst
    offload_layout layout
    virtio_net_header offload
    uint16_t next  # in its stretch
    uint16_t last  # of a stretch's first: where it ends

cdef struct gro_stretch:
    uint16_t first  # NO_FRAME: this place is free
    bint closed  # nothing can follow
    bint verified  # the first one's checksums are right
    uint32_t sequence  # of what follows
    uint32_t count
    uint32_t payload
    uint32_t vectors

cdef struct gro_search:
    port_frame **frames
    gro_segment segments[BURST_MAX]
    gro_stretch stretches[GRO_FLOWS_MAX]
    uint32_t turn  # the place that is given away next
    uint32_t vectors  # of all stretches
    uint32_t joined


cdef inline const uint8_t *gro_l4(const gro_search *search, uint32_t i) noexcept nogil:
    """The TCP or UDP header of a frame whose layout was found."""
    return search.frames[i].head.data + search.segments[i].layout.l4
