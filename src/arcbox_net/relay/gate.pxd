"""The SYN gate: TCP of guests as packets, until the kernel has the connection; gate.pyx says how."""

from libc.stdint cimport uint32_t

from arcbox_net.relay.door cimport door_packet, relay_door
from arcbox_net.relay.flow cimport flow_row, gate_flow, relay_worker


cdef void gate_on_packet(relay_worker *w, relay_door *door, door_packet *packet) noexcept nogil
cdef void gate_on_event(relay_worker *w, gate_flow *flow, int side, uint32_t events) noexcept nogil
cdef void gate_on_timeout(relay_worker *w, gate_flow *flow) noexcept nogil
cdef void gate_describe(relay_worker *w, gate_flow *flow, flow_row *row) noexcept nogil
cdef bint gate_prepare(relay_door *door) noexcept nogil
cdef void gate_release(relay_door *door) noexcept nogil
