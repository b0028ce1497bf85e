"""Sending to a port, whatever it takes. port_send.pyx is for all who have frames: the switch, the router, links."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.port cimport port, port_frame

cdef enum:  # in port.takes, beside the offloads
    TAKES_LARGE = 32  # a TCP super-frame within frame_max may come as one packet, its checksum completed


cdef void port_send(port *out, port_frame **frames, uint32_t count) noexcept nogil
