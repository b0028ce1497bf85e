"""Reads the error queues of host sockets (IP_RECVERR) and tells guests what the network said.

The guest hears the ICMP error that the host's kernel heard, of its own type and code and from the same router,
with the guest's own packet quoted: headers as the guest wrote them, and as much behind them as came back. An
error that names a peer the guest has not sent to is dropped, and none refreshes or ends anything
(RFC 4787 REQ-12, RFC 5508 REQ-6).
"""

from libc.errno cimport EMSGSIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.datagrams cimport (
    IP_RECVERR, IPV6_RECVERR, MSG_ERRQUEUE, SO_EE_OFFENDER, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6,
    SO_EE_ORIGIN_LOCAL, sock_extended_err,
)
from arcbox_net.abi.socket cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, MSG_DONTWAIT,
    cmsghdr, htons, iovec, msghdr, ntohs, recvmsg, sockaddr, sockaddr_in, sockaddr_in6,
)
from arcbox_net.relay.answer cimport answer_error
from arcbox_net.relay.door cimport IPV4_DOOR, address_map, door_packet, relay_door
from arcbox_net.relay.endpoint cimport endpoint_table, peer_known, relay_endpoint
from arcbox_net.relay.flow cimport ADDRESS_BYTES, relay_worker
from arcbox_net.relay.reach cimport reach_is_host
from arcbox_net.wire.icmp cimport (
    ICMP_ECHO_REQUEST, ICMP_FRAGMENTATION_NEEDED, ICMP_HEADER_BYTES, ICMP_IDENTIFIER,
    ICMP_PARAMETER_PROBLEM, ICMP_SEQUENCE, ICMP_TIME_EXCEEDED, ICMP_TYPE, ICMP_UNREACHABLE,
    ICMPV6_ECHO_REQUEST, ICMPV6_PACKET_TOO_BIG, ICMPV6_PARAMETER_PROBLEM, ICMPV6_UNREACHABLE,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_MTU_MIN, IPV4_SOURCE, ipv4_set_checksum, ipv4_write,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_MTU_MIN, IPV6_SOURCE, ipv6_write,
)
from arcbox_net.wire.octets cimport store_u16
from arcbox_net.wire.udp cimport (
    PROTOCOL_UDP, UDP_DESTINATION_PORT, UDP_HEADER_BYTES, UDP_LENGTH, UDP_SOURCE_PORT,
)

cdef enum:
    ERRORS_MAX = 16  # of one socket in one turn
    PAYLOAD_BYTES = 1232  # what a quote holds at most: IPv6's least MTU without a header and the error's own
    CONTROL_BYTES = 256
    L4_HEADER_BYTES = 8  # UDP's and echo's alike
    QUOTE_BYTES = IPV6_HEADER_BYTES + L4_HEADER_BYTES + PAYLOAD_BYTES

cdef struct socket_error:
    sockaddr_in6 peer  # where the packet went that this is about
    uint8_t icmp_type
    uint8_t icmp_code
    uint32_t info  # the MTU, of a packet that is too big
    uint8_t has_source
    uint8_t source[ADDRESS_BYTES]  # who sent the error
    uint32_t payload_size
    uint8_t payload[PAYLOAD_BYTES]  # of that packet, behind the UDP header; an echo's with its header


cdef int socket_errors_tell(
    relay_worker *w, relay_door *door, const endpoint_table *table, relay_endpoint *e, uint8_t protocol,
    uint16_t dst_port,
) noexcept nogil:
    """Empty the socket's error queue, within the turn's budget; how many errors the guest was told.

    *dst_port* is that of the last packet: IPv4's own errors (Linux 6.18) come without one.
    """
    cdef socket_error found
    cdef int _attempt, told = 0
    for _attempt in range(ERRORS_MAX):
        if not _read(e, &found):
            break
        if found.peer.sin6_port == 0:  # where a sockaddr_in has it too
            found.peer.sin6_port = htons(dst_port)
        if found.icmp_type and peer_known(table, e, &found.peer):
            _tell(w, door, e, &found, protocol)
            told += 1
    return told


cdef bint _read(relay_endpoint *e, socket_error *found) noexcept nogil:
    """The next error; False when there is none. Its type is 0 when it is none for the guest."""
    cdef uint8_t ancillary[CONTROL_BYTES]
    cdef msghdr message
    cdef iovec vector
    cdef cmsghdr *control
    cdef ssize_t size
    memset(&message, 0, sizeof(message))
    vector.iov_base = found.payload
    vector.iov_len = PAYLOAD_BYTES
    message.msg_iov = &vector
    message.msg_iovlen = 1
    message.msg_name = &found.peer
    message.msg_namelen = sizeof(found.peer)
    message.msg_control = ancillary
    message.msg_controllen = CONTROL_BYTES
    size = recvmsg(e.fd, &message, MSG_ERRQUEUE | MSG_DONTWAIT)
    if size < 0:
        return False
    found.payload_size = <uint32_t>size
    found.icmp_type = 0
    control = CMSG_FIRSTHDR(&message)
    while control != NULL:
        if (control.cmsg_level == IPPROTO_IP and control.cmsg_type == IP_RECVERR) or (
            control.cmsg_level == IPPROTO_IPV6 and control.cmsg_type == IPV6_RECVERR
        ):
            _understand(e, <sock_extended_err *>CMSG_DATA(control), found)
        control = CMSG_NXTHDR(&message, control)
    return True


cdef void _understand(relay_endpoint *e, sock_extended_err *error, socket_error *found) noexcept nogil:
    cdef const sockaddr *offender = SO_EE_OFFENDER(error)
    cdef bint v4 = e.version == IPV4_DOOR
    found.has_source = 0
    found.info = error.ee_info
    found.icmp_code = error.ee_code
    if error.ee_origin == (SO_EE_ORIGIN_ICMP if v4 else SO_EE_ORIGIN_ICMP6):
        found.icmp_type = error.ee_type
        if v4 and offender.sa_family == AF_INET:
            address_map(found.source, <const uint8_t *>&(<const sockaddr_in *>offender).sin_addr)
            found.has_source = 1
        elif not v4 and offender.sa_family == AF_INET6:
            memcpy(found.source, &(<const sockaddr_in6 *>offender).sin6_addr, ADDRESS_BYTES)
            found.has_source = 1
    elif error.ee_origin == SO_EE_ORIGIN_LOCAL and error.ee_errno == EMSGSIZE:
        found.icmp_type = ICMP_UNREACHABLE if v4 else ICMPV6_PACKET_TOO_BIG
        found.icmp_code = ICMP_FRAGMENTATION_NEEDED if v4 else 0
    if not _is_error(v4, found):
        found.icmp_type = 0


cdef bint _is_error(bint v4, socket_error *found) noexcept nogil:
    """Whether a guest may hear of it; the MTU of a packet that is too big is made one that can be."""
    if not v4:
        if found.icmp_type == ICMPV6_PACKET_TOO_BIG:
            found.info = max(found.info, <uint32_t>IPV6_MTU_MIN)
        else:
            found.info = 0
        return ICMPV6_UNREACHABLE <= found.icmp_type <= ICMPV6_PARAMETER_PROBLEM
    if found.icmp_type == ICMP_UNREACHABLE and found.icmp_code == ICMP_FRAGMENTATION_NEEDED:
        return IPV4_MTU_MIN <= found.info <= 0xFFFF
    found.info = 0
    return found.icmp_type in (ICMP_UNREACHABLE, ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM)


cdef void _tell(
    relay_worker *w, relay_door *door, relay_endpoint *e, socket_error *found, uint8_t protocol
) noexcept nogil:
    cdef uint8_t quote[QUOTE_BYTES]
    cdef door_packet packet
    cdef uint8_t *l4
    cdef const uint8_t *payload = found.payload
    cdef uint32_t size = found.payload_size
    memset(&packet, 0, sizeof(packet))
    packet.version = e.version
    packet.ip = quote
    memcpy(packet.src, e.key.guest, ADDRESS_BYTES)
    if e.version == IPV4_DOOR:
        l4 = quote + IPV4_HEADER_BYTES
        address_map(packet.dst, <const uint8_t *>&(<const sockaddr_in *>&found.peer).sin_addr)
    else:
        l4 = quote + IPV6_HEADER_BYTES
        memcpy(packet.dst, &found.peer.sin6_addr, ADDRESS_BYTES)
    memset(l4, 0, L4_HEADER_BYTES)
    if protocol == PROTOCOL_UDP:
        store_u16(l4 + UDP_SOURCE_PORT, e.key.l4_port)
        store_u16(l4 + UDP_DESTINATION_PORT, ntohs(found.peer.sin6_port))
        store_u16(l4 + UDP_LENGTH, UDP_HEADER_BYTES + size)
    else:
        l4[ICMP_TYPE] = ICMP_ECHO_REQUEST if e.version == IPV4_DOOR else ICMPV6_ECHO_REQUEST
        store_u16(l4 + ICMP_IDENTIFIER, e.key.l4_port)
        if size >= ICMP_HEADER_BYTES:
            memcpy(l4 + ICMP_SEQUENCE, payload + ICMP_SEQUENCE, 2)
            payload += ICMP_HEADER_BYTES
            size -= ICMP_HEADER_BYTES
        else:
            size = 0
    memcpy(l4 + L4_HEADER_BYTES, payload, size)
    size += L4_HEADER_BYTES
    if e.version == IPV4_DOOR:
        ipv4_write(quote, protocol, size)
        memcpy(quote + IPV4_SOURCE, packet.src + 12, 4)
        memcpy(quote + IPV4_DESTINATION, packet.dst + 12, 4)
        ipv4_set_checksum(quote)
    else:
        ipv6_write(quote, protocol, size)
        memcpy(quote + IPV6_SOURCE, packet.src, ADDRESS_BYTES)
        memcpy(quote + IPV6_DESTINATION, packet.dst, ADDRESS_BYTES)
    packet.ip_size = <uint32_t>(l4 - quote) + size
    if not found.has_source or (door.reach != NULL and reach_is_host(door.reach, found.source)):
        # The host itself said so: to guests it has the gateway's address.
        memcpy(
            found.source, &door.gateways[e.version][0] if door.has_gateway[e.version] else &packet.dst[0], ADDRESS_BYTES
        )
    answer_error(w, door, e.guest, &packet, found.source, found.icmp_type, found.icmp_code, found.info)
