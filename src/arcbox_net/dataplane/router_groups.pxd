"""A router as a listener of the groups in which others ask for its IPv6 addresses."""

from libc.stdint cimport uint8_t

from arcbox_net.dataplane.router_state cimport router


cdef bint router_hears_query(router *r, const uint8_t *packet, bint summed) noexcept nogil
cdef void router_report(router *r) noexcept nogil
