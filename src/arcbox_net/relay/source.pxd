"""Whose address a dial has; source.pyx says when."""

from arcbox_net.abi.socket cimport sockaddr_in6
from arcbox_net.relay.flow cimport relay_rule, relay_worker

cdef enum:  # a dial's source, in the order in which they are tried
    SOURCE_CLIENT  # the client's address and L4 port
    SOURCE_CLIENT_ADDRESS  # the client's address and any L4 port
    SOURCE_GATEWAY  # what the kernel picks for the route to the target
    SOURCE_COUNT


cdef int source_first(const relay_worker *w, const relay_rule *rule, const sockaddr_in6 *client) noexcept nogil
cdef int source_socket(
    const relay_rule *rule, int type, const sockaddr_in6 *client, int source
) noexcept nogil
cdef void source_count(relay_rule *rule, int source) noexcept nogil
