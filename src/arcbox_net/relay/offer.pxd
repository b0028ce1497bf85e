"""Connections between the destination's answer and the kernel's accept; offer.pyx says how they get there."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.relay.door cimport gate_listener, relay_door
from arcbox_net.relay.flow cimport gate_flow, relay_worker


cdef void offer_syn(relay_worker *w, gate_flow *flow) noexcept nogil
cdef int offer_return(relay_door *door, uint8_t *frame, uint32_t size) noexcept nogil
cdef void offer_on_burst_end(relay_worker *w, relay_door *door) noexcept nogil
cdef void offer_on_listener(relay_worker *w, gate_listener *listener) noexcept nogil
cdef int offer_watch(relay_worker *w, gate_flow *flow) noexcept nogil
cdef void offer_forget(relay_door *door, gate_flow *flow) noexcept nogil
