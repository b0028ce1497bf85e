"""Asks the kernel how a packet to a new peer would leave, before a socket that is not connected sends it there.

Connecting a UDP socket looks the route up and sends nothing; the source address it chooses tells whether the
destination is the host itself, also when the list of the host's addresses is a moment old.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, AF_UNSPEC, SO_RCVBUF, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOL_SOCKET, connect, getsockname,
    setsockopt, sockaddr, sockaddr_in, sockaddr_in6, socket, socklen_t,
)
from arcbox_net.relay.door cimport IPV4_DOOR, IPV6_DOOR, address_map, address_to_name, door_packet
from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.relay.reach cimport (
    REACH_HOST, REACH_OK, REACH_UDP, reach_check, reach_policy, reach_stays_here, reach_verdict,
)
from arcbox_net.relay.route cimport route_probe

cdef enum:
    ECHO_PORT = 7  # a port to ask with where there is none


cdef void route_init(route_probe *probe) noexcept nogil:
    probe.fds[IPV4_DOOR] = probe.fds[IPV6_DOOR] = -1


cdef void route_close(route_probe *probe) noexcept nogil:
    close(probe.fds[IPV4_DOOR])
    close(probe.fds[IPV6_DOOR])
    route_init(probe)


cdef int route_check(
    route_probe *probe, const reach_policy *policy, const door_packet *packet, reach_verdict *verdict
) noexcept nogil:
    """Whether the packet may go where it wants to; 0 with a verdict, or the errno of having no route."""
    cdef sockaddr_in6 name
    cdef uint8_t source[ADDRESS_BYTES]
    cdef socklen_t size = sizeof(name)
    cdef uint16_t l4_port = packet.dst_port if packet.dst_port else ECHO_PORT
    cdef bint v4 = packet.version == IPV4_DOOR
    cdef int least = 0, fd = probe.fds[packet.version]
    verdict[0] = reach_check(policy, REACH_UDP, v4, packet.dst, packet.dst_port)
    if verdict[0] != REACH_OK:
        return 0
    if fd < 0:
        fd = socket(AF_INET if v4 else AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        if fd < 0:
            return errno
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &least, sizeof(least))  # nobody reads what comes here
        probe.fds[packet.version] = fd
    memset(&name, 0, sizeof(name))
    name.sin6_family = AF_UNSPEC  # gives up the source address of the last question, which would be kept
    connect(fd, <const sockaddr *>&name, sizeof(name))
    if connect(fd, <const sockaddr *>&name, address_to_name(&name, packet.version, packet.dst, l4_port)) < 0:
        return errno
    if getsockname(fd, <sockaddr *>&name, &size) < 0:
        return errno
    if v4:
        address_map(source, <const uint8_t *>&(<sockaddr_in *>&name).sin_addr)
    else:
        memcpy(source, &name.sin6_addr, ADDRESS_BYTES)
    if reach_stays_here(policy, REACH_UDP, v4, source, packet.dst, packet.dst_port):
        verdict[0] = REACH_HOST
    return 0
