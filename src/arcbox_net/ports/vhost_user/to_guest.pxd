"""Frames for the guest: its receive queues take what our tx sends."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame


cdef void to_guest_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil
cdef void to_guest_flush(port *self) noexcept nogil
