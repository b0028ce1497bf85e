"""The echo part of a door; echo.pyx says how it works."""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.relay.door cimport door_packet, relay_door
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport relay_worker


cdef bint echoes_prepare(relay_door *door, uint64_t seed) noexcept nogil
cdef void echoes_release(relay_door *door) noexcept nogil
cdef void echo_out(relay_worker *w, relay_door *door, const door_packet *packet) noexcept nogil
cdef void echo_on_event(relay_worker *w, relay_endpoint *e, uint32_t events) noexcept nogil
cdef void echo_on_timeout(relay_worker *w, relay_endpoint *e) noexcept nogil
cdef void echo_end(relay_worker *w, relay_endpoint *e) noexcept nogil
