"""What goes to a guest as one packet: datagrams of one size from one peer. super_frame.pyx writes it."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.abi.socket cimport iovec, sockaddr_in6
from arcbox_net.relay.datagrams cimport SEGMENTS_MAX, relay_datagrams
from arcbox_net.relay.endpoint cimport relay_endpoint

cdef enum:
    L4_HEADER_BYTES = 8  # UDP's and echo's alike
    SUPER_VECTORS_MAX = 2 + SEGMENTS_MAX  # the first two are for the headers

cdef struct super_frame:
    const sockaddr_in6 *peer
    uint32_t total  # payload bytes
    uint32_t segment  # payload bytes of each datagram but the last
    uint32_t segments
    int ttl
    int tos
    bint closed  # the last datagram is shorter: nothing can follow
    int vector_count
    iovec vectors[SUPER_VECTORS_MAX]


cdef void super_frame_write(relay_datagrams *d, relay_endpoint *e, super_frame *f) noexcept nogil
cdef bint super_frame_write_plain(
    relay_datagrams *d, relay_endpoint *e, super_frame *f, uint8_t protocol, uint8_t *l4
) noexcept nogil
