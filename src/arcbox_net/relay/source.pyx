"""Whose address a dial to a guest has: the client's own where the rule is transparent, else the gateway's.

The guest answers a client's address by its default route, so the packets come back to us, and the kernel
gives them to the socket that has that address (`socket transparent` in the ruleset). That cannot work for an
address that means something else inside, or that the guest does not route to us: then, and when the kernel
refuses the address, the dial leaves from the gateway's, as it does for rules that are not transparent.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

from arcbox_net.abi.files cimport close
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, IP_BIND_ADDRESS_NO_PORT, IP_TRANSPARENT, IPPROTO_IP, IPPROTO_IPV6,
    IPV6_TRANSPARENT, SO_REUSEADDR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, bind,
    setsockopt, sockaddr, sockaddr_in, sockaddr_in6, socket,
)
from arcbox_net.relay.flow cimport (
    DIALS_AS_CLIENT, DIALS_AS_GATEWAY, count, guest_subnet, relay_rule, relay_worker,
)


cdef int source_first(const relay_worker *w, const relay_rule *rule, const sockaddr_in6 *client) noexcept nogil:
    """The first SOURCE_ to try for a dial on behalf of *client*."""
    cdef int i
    if not rule.transparent or client.sin6_family != rule.target.sin6_family:
        return SOURCE_GATEWAY
    if not _usable(client):
        return SOURCE_GATEWAY
    for i in range(<int>w.guest_subnet_count):
        if _inside(client, &w.guest_subnets[i]):
            return SOURCE_GATEWAY
    return SOURCE_CLIENT


cdef int source_socket(
    const relay_rule *rule, int type, const sockaddr_in6 *client, int source
) noexcept nogil:
    """A socket of SOCK_*type* bound as *source* says; -1 when there is none, with errno."""
    cdef int fd = socket(rule.target.sin6_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd >= 0 and source != SOURCE_GATEWAY and not _bound(fd, client, source == SOURCE_CLIENT):
        close(fd)
        return -1
    if fd >= 0 and source == SOURCE_GATEWAY and rule.inside:
        # By that the ruleset knows the guest's answers. Refused, as to a relay without the power: then it has no rules.
        _set_transparent(fd, rule.target.sin6_family == AF_INET)
    return fd


cdef void source_count(relay_rule *rule, int source) noexcept nogil:
    """A dial of a transparent rule has been made from *source*."""
    if rule.transparent:
        count(rule, DIALS_AS_GATEWAY if source == SOURCE_GATEWAY else DIALS_AS_CLIENT, 1)


cdef bint _bound(int fd, const sockaddr_in6 *client, bint own_l4_port) noexcept nogil:
    cdef int on = 1
    cdef sockaddr_in6 name = client[0]
    cdef bint v4 = client.sin6_family == AF_INET
    if not _set_transparent(fd, v4):
        return False
    if own_l4_port:
        # One client may use one L4 port for several forwards: then only the whole 4-tuple is unique.
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on))
    else:
        name.sin6_port = 0  # at the same place in a sockaddr_in
        # connect() picks the L4 port: bind() would need one that is free for every target.
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
    return bind(fd, <const sockaddr *>&name, sizeof(sockaddr_in) if v4 else sizeof(sockaddr_in6)) == 0


cdef bint _set_transparent(int fd, bint v4) noexcept nogil:
    cdef int on = 1
    return (
        setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)) if v4
        else setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &on, sizeof(on))
    ) == 0


cdef bint _usable(const sockaddr_in6 *client) noexcept nogil:
    """Whether a guest can answer *client*: not unspecified, loopback, link-local, multicast or reserved."""
    cdef const uint8_t *raw
    cdef const uint8_t *zeros = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    if client.sin6_family == AF_INET:
        raw = <const uint8_t *>&(<const sockaddr_in *>client).sin_addr
        return raw[0] != 0 and raw[0] != 127 and raw[0] < 224 and not (raw[0] == 169 and raw[1] == 254)
    if client.sin6_family == AF_INET6:
        raw = &client.sin6_addr.s6_addr[0]
        if memcmp(raw, zeros, 15) == 0 and raw[15] <= 1:
            return False
        return raw[0] != 0xFF and not (raw[0] == 0xFE and (raw[1] & 0xC0) == 0x80)
    return False


cdef bint _inside(const sockaddr_in6 *client, const guest_subnet *subnet) noexcept nogil:
    cdef const uint8_t *raw
    cdef uint32_t whole = subnet.prefix_length // 8, rest = subnet.prefix_length % 8
    cdef uint8_t mask = <uint8_t>(0xFF00 >> rest)
    if client.sin6_family != subnet.family:
        return False
    if client.sin6_family == AF_INET:
        raw = <const uint8_t *>&(<const sockaddr_in *>client).sin_addr
    else:
        raw = &client.sin6_addr.s6_addr[0]
    if memcmp(raw, subnet.address, whole) != 0:
        return False
    return rest == 0 or (raw[whole] & mask) == (subnet.address[whole] & mask)
