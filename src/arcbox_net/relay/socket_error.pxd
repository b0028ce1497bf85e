"""ICMP errors that the host's sockets heard of, told to the guest; socket_error.pyx reads and answers."""

from libc.stdint cimport uint8_t, uint16_t

from arcbox_net.abi.socket cimport sockaddr_in6
from arcbox_net.relay.door cimport relay_door
from arcbox_net.relay.endpoint cimport endpoint_table, relay_endpoint
from arcbox_net.relay.flow cimport relay_worker


cdef int socket_errors_tell(
    relay_worker *w, relay_door *door, const endpoint_table *table, relay_endpoint *e, uint8_t protocol,
    uint16_t dst_port,
) noexcept nogil
