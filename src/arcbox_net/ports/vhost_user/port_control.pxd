"""What control may tell a vhost-user port."""

from arcbox_net.dataplane.port cimport port, port_message


cdef int port_control(port *self, const port_message *message) noexcept nogil
cdef void port_reset(port *self) noexcept nogil
