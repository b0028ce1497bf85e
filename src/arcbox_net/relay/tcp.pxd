"""TCP flows of the relay; tcp.pyx says how they live."""

from libc.stdint cimport uint32_t

from arcbox_net.relay.flow cimport counter, flow_row, relay_rule, relay_worker, tcp_flow, tcp_side


cdef void tcp_on_listener(relay_worker *w, relay_rule *rule) noexcept nogil
cdef void tcp_on_event(relay_worker *w, tcp_flow *flow, int side, uint32_t events) noexcept nogil
cdef void tcp_note(tcp_side *s, uint32_t events) noexcept nogil
cdef void tcp_on_turn(relay_worker *w, tcp_flow *flow) noexcept nogil
cdef void tcp_on_timeout(relay_worker *w, tcp_flow *flow) noexcept nogil
cdef void tcp_reset(relay_worker *w, tcp_flow *flow) noexcept nogil
cdef void tcp_end(relay_worker *w, tcp_flow *flow, counter outcome) noexcept nogil
cdef int tcp_watch(relay_worker *w, tcp_flow *flow, int side) noexcept nogil
cdef void tcp_close_reset(int fd) noexcept nogil
cdef int tcp_tune(int fd) noexcept nogil
cdef void tcp_unpace(int fd) noexcept nogil
cdef void tcp_describe(relay_worker *w, tcp_flow *flow, flow_row *row) noexcept nogil
