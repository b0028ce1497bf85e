"""Joining what belongs together in a burst to super-frames, for port_send, towards ports that take them."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport HEAD_BYTES, port_frame
from arcbox_net.memory.frame cimport BURST_MAX

cdef enum:
    GRO_VECTORS_MAX = 256  # pieces of payload in all super-frames of a burst
    GRO_HEADERS_OFFSET = 16  # the virtio-net header ends there
    GRO_JOINED_MAX = BURST_MAX // 2

cdef struct gro_burst:  # a burst as it is to be sent, and the memory of what is new in it
    port_frame *frames[BURST_MAX]
    uint32_t count
    uint32_t joined_count
    uint32_t vector_count
    port_frame joined[GRO_JOINED_MAX]
    uint8_t headers[GRO_JOINED_MAX][GRO_HEADERS_OFFSET + HEAD_BYTES]
    iovec vectors[GRO_VECTORS_MAX]


cdef void gro_join(gro_burst *burst, port_frame **frames, uint32_t count, uint32_t takes) noexcept nogil
