"""Frames that the guest sends: its transmit queues feed our rx."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame


cdef uint32_t from_guest_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil
cdef void from_guest_release(port *self, port_frame *frames, uint32_t count) noexcept nogil
