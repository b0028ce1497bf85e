"""UDP endpoints of a door; datagram.pyx says how they live."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from arcbox_net.abi.socket cimport sockaddr_in6
from arcbox_net.relay.door cimport door_packet, relay_door
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport flow_row, relay_worker


cdef bint datagrams_prepare(relay_door *door, uint64_t seed) noexcept nogil
cdef void datagrams_release(relay_door *door) noexcept nogil
cdef relay_endpoint *datagram_endpoint(
    relay_worker *w, relay_door *door, const door_packet *packet, const sockaddr_in6 *name
) noexcept nogil
cdef void datagram_refuse(relay_worker *w, relay_door *door, const door_packet *packet, int failure) noexcept nogil
cdef void datagram_set_whole(relay_endpoint *e, bint whole) noexcept nogil
cdef void datagram_on_event(relay_worker *w, relay_endpoint *e, uint32_t events) noexcept nogil
cdef void datagram_tell(relay_worker *w, relay_endpoint *e, uint16_t dst_port) noexcept nogil
cdef void datagram_on_timeout(relay_worker *w, relay_endpoint *e) noexcept nogil
cdef void datagram_end(relay_worker *w, relay_endpoint *e) noexcept nogil
cdef void datagram_describe(relay_worker *w, relay_endpoint *e, flow_row *row) noexcept nogil
