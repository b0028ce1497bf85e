"""Frames that are larger than their way: who may send them in pieces, and what their senders are told (L9)."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame
from arcbox_net.dataplane.switch_state cimport switch_state


cdef bint segments_fit(const port *out, const port_frame *f) noexcept nogil
cdef void tell_too_big(switch_state *s, const port_frame *f, uint32_t frame_max) noexcept nogil
cdef void send_told(switch_state *s, port *source) noexcept nogil
