"""What control tells a switch: messages that come between two bursts. Layouts of payloads: port_binding.py."""

from arcbox_net.dataplane.port cimport port, port_message
from arcbox_net.dataplane.switch_state cimport switch_state


cdef int switch_message(switch_state *s, port *p, const port_message *message) noexcept nogil
cdef void switch_forget_gone(switch_state *s) noexcept nogil
