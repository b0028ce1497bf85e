"""UDP of guests, outbound; datagram_out.pyx says how."""

from arcbox_net.relay.door cimport door_packet, relay_door
from arcbox_net.relay.flow cimport relay_worker


cdef void datagram_out(relay_worker *w, relay_door *door, const door_packet *packet) noexcept nogil
cdef void datagram_flush(relay_worker *w, relay_door *door) noexcept nogil
