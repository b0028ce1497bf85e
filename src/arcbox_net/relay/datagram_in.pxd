"""UDP towards guests; datagram_in.pyx says how."""

from libc.stdint cimport uint32_t

from arcbox_net.abi.socket cimport msghdr
from arcbox_net.relay.datagrams cimport relay_datagrams
from arcbox_net.relay.endpoint cimport relay_endpoint
from arcbox_net.relay.flow cimport relay_worker

cdef struct arrival:  # a datagram, or many that came as one
    uint32_t size
    uint32_t segment  # the size of each but the last
    int ttl
    int tos


cdef void datagram_in(relay_worker *w, relay_datagrams *d, relay_endpoint *e) noexcept nogil
cdef int datagram_receive(relay_datagrams *d, int fd) noexcept nogil
cdef void arrival_look(msghdr *message, uint32_t size, arrival *a) noexcept nogil
