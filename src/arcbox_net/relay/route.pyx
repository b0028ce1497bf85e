"""Asks the kernel how a packet to a new peer would leave, before a socket that is not connected sends it there.

Connecting a UDP socket looks the route up and sends nothing. What it has found tells whether the destination is
the host itself, also where nobody told us of the address: the list is a moment old, or it is the anycast address
that an IPv6 router has in each subnet. Such a packet leaves from the very address it goes to, or from another one
of the host's by the loopback device, whose MTU no other device has.
"""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from arcbox_net.abi.datagrams cimport IP_MTU, IPV6_MTU
from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, AF_UNSPEC, IPPROTO_IP, IPPROTO_IPV6, SO_RCVBUF, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK,
    SOL_SOCKET, bind, connect, getsockname, getsockopt, setsockopt, sockaddr, sockaddr_in6, socket, socklen_t,
)
from arcbox_net.relay.door cimport IPV4_DOOR, IPV6_DOOR, address_from_name, address_to_name, door_packet
from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.relay.reach cimport (
    REACH_HOST, REACH_OK, REACH_UDP, reach_check, reach_policy, reach_stays_here, reach_verdict,
)
from arcbox_net.relay.route cimport route_probe

cdef enum:
    ECHO_PORT = 7  # a port to ask with where there is none
    LOOPBACK_MTU4 = 65535  # lo's 65536, as far as IPv4 can use it
    LOOPBACK_MTU6 = 65536


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
    if route_stays_here(policy, REACH_UDP, packet, fd):
        verdict[0] = REACH_HOST
    return 0


cdef bint route_stays_here(
    const reach_policy *policy, int protocol, const door_packet *packet, int fd
) noexcept nogil:
    """Whether *fd*, which is connected to where the packet goes or about to be, reaches the host, and may not."""
    cdef sockaddr_in6 name
    cdef socklen_t size = sizeof(name)
    cdef uint8_t source[ADDRESS_BYTES]
    if getsockname(fd, <sockaddr *>&name, &size) < 0:
        return True
    address_from_name(&name, source)
    return reach_stays_here(
        policy, protocol, packet.version == IPV4_DOOR, source, packet.dst, packet.dst_port, _by_loopback(fd, packet)
    )


cdef bint _by_loopback(int fd, const door_packet *packet) noexcept nogil:
    cdef int mtu = 0
    cdef socklen_t size = sizeof(mtu)
    if packet.version != IPV4_DOOR:
        getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &size)
        return mtu >= LOOPBACK_MTU6
    getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &size)
    return mtu >= LOOPBACK_MTU4 and _is_local4(packet)


cdef bint _is_local4(const door_packet *packet) noexcept nogil:
    """Whether the kernel has the address: a veth's MTU can be as large as what IPv4 can use of lo's."""
    cdef sockaddr_in6 name
    cdef uint32_t size = address_to_name(&name, IPV4_DOOR, packet.dst, 0)
    cdef int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)
    cdef bint local = fd < 0 or bind(fd, <const sockaddr *>&name, size) == 0
    close(fd)
    return local
