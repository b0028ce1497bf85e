"""Sending to a port, whatever it takes. port_send.pyx is for all who have frames: the switch, the router, links."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame


cdef void port_send(port *out, port_frame **frames, uint32_t count) noexcept nogil
