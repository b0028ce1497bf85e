"""What control tells a router: messages that come between two bursts. Layouts of payloads: router_config.py."""

from arcbox_net.dataplane.port cimport port_message
from arcbox_net.dataplane.router_state cimport router


cdef int router_message(router *r, const port_message *message) noexcept nogil
