"""Where the host would send a guest's packet; route.pyx asks the kernel."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.abi.socket cimport sockaddr_in6
from arcbox_net.relay.door cimport door_packet
from arcbox_net.relay.reach cimport reach_policy, reach_verdict

cdef struct route_probe:
    int fds[2]  # by IP version; -1 before the first question


cdef void route_init(route_probe *probe) noexcept nogil
cdef void route_close(route_probe *probe) noexcept nogil
cdef int route_check(
    route_probe *probe, const reach_policy *policy, const door_packet *packet, reach_verdict *verdict
) noexcept nogil
cdef bint route_stays_here(
    const reach_policy *policy, int protocol, const door_packet *packet, int fd
) noexcept nogil
