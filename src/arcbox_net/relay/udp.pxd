"""UDP flows of the relay; udp.pyx says how they live."""

from arcbox_net.relay.flow cimport counter, flow_row, relay_rule, relay_worker, udp_flow


cdef void udp_tune(int fd) noexcept nogil
cdef int udp_prepare(relay_worker *w, relay_rule *rule) noexcept nogil
cdef void udp_on_listener(relay_worker *w, relay_rule *rule) noexcept nogil
cdef void udp_on_flow(relay_worker *w, udp_flow *flow) noexcept nogil
cdef void udp_on_timeout(relay_worker *w, udp_flow *flow) noexcept nogil
cdef void udp_end(relay_worker *w, udp_flow *flow, counter outcome) noexcept nogil
cdef void udp_describe(relay_worker *w, udp_flow *flow, flow_row *row) noexcept nogil
