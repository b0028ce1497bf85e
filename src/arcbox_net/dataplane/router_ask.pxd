"""ARP and neighbour discovery of a router: asking, answering for its own addresses, and hearing answers."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.router_state cimport router
from arcbox_net.dataplane.shares cimport sharer
from arcbox_net.dataplane.verdict cimport Direction


cdef void router_ask(router *r, Direction towards, const uint8_t *key) noexcept nogil
cdef bint router_hears(
    router *r, Direction towards, const uint8_t *frame, uint32_t size, bint summed
) noexcept nogil
cdef void router_learns(
    router *r, Direction towards, const uint8_t *key, const uint8_t *mac, const sharer *by, bint by_leg
) noexcept nogil
