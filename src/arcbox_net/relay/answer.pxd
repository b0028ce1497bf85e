"""What a guest is told of a packet that goes nowhere; answer.pyx builds it."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.relay.door cimport door_packet, relay_door
from arcbox_net.relay.flow cimport relay_guest, relay_worker

cdef enum unreachable:
    UNREACHABLE_NETWORK
    UNREACHABLE_HOST
    UNREACHABLE_PORT
    UNREACHABLE_PROHIBITED


cdef void answer_reset(relay_door *door, const door_packet *packet) noexcept nogil
cdef void answer_unreachable(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, unreachable what
) noexcept nogil
cdef void answer_error(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, const uint8_t *source,
    uint8_t icmp_type, uint8_t icmp_code, uint32_t info,
) noexcept nogil
cdef void answer_dial(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, int failure
) noexcept nogil
