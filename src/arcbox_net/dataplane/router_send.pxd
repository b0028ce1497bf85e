"""From translated packets to frames with a MAC address: which way they go, and which have to wait."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.neighbours cimport neighbour
from arcbox_net.dataplane.port cimport PortDrop, port_frame
from arcbox_net.dataplane.router_state cimport router
from arcbox_net.dataplane.shares cimport sharer
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport BURST_MAX, frame

cdef struct router_batch:  # of frames that go the same way: its place among the batches
    uint32_t count
    port_frame frames[BURST_MAX]


cdef void batch_add(
    router *r, Direction towards, router_batch *batches, const frame *f, uint16_t from_port
) noexcept nogil
cdef void batches_flush(router *r, router_batch *batches) noexcept nogil
cdef bint router_is_refused(const router *r, const frame *f) noexcept nogil
cdef void router_refuse(router *r, const frame *f, uint16_t from_port) noexcept nogil
cdef void count_drop(router *r, uint16_t from_port, PortDrop reason) noexcept nogil
cdef sharer sharer_of(const router *r, const frame *f, uint16_t from_port) noexcept nogil
cdef void send_waiting(router *r, Direction towards, const neighbour *one) noexcept nogil
cdef void drop_waiting(router *r, Direction towards, uint32_t id) noexcept nogil
cdef void router_send_frame(router *r, Direction towards, uint8_t *data, uint32_t size) noexcept nogil
