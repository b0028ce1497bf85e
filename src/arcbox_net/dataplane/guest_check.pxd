"""Whether a guest may send a frame. guest_check.pyx has what is not decided by the few compares of the usual case."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.binding cimport SENDS, binding
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_IPV4, ethernet_is_group, ethernet_mac, ethernet_type,
)
from arcbox_net.wire.ipv4 cimport IPV4_HEADER_BYTES, IPV4_PROTOCOL, ipv4_source_be
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_DESTINATION_PORT, UDP_SOURCE_PORT

cdef enum:
    DHCP_SERVER_PORT = 67
    DHCP_CLIENT_PORT = 68
    PORTS_BYTES = 4  # of a UDP header: what has to be there to tell who sends it


cdef int guest_check_slow(
    switch_state *s, binding *b, const uint8_t *frame, uint32_t size, uint64_t now_ns
) noexcept nogil


cdef inline bint guest_is_usual(const binding *b, const uint8_t *frame, uint32_t size) noexcept nogil:
    """A unicast IPv4 packet from the guest's first address, of no DHCP server: its source is all there is to check."""
    cdef const uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    return (
        size >= ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES + PORTS_BYTES
        and ethernet_type(frame) == ETHERTYPE_IPV4
        and not ethernet_is_group(frame)
        and b.mac != 0
        and ethernet_mac(frame + ETHERNET_SOURCE) == b.mac
        and ip[0] == 0x45
        and (
            ip[IPV4_PROTOCOL] != PROTOCOL_UDP
            or load_u16(ip + IPV4_HEADER_BYTES + UDP_SOURCE_PORT) != DHCP_SERVER_PORT
            and load_u16(ip + IPV4_HEADER_BYTES + UDP_DESTINATION_PORT) != DHCP_CLIENT_PORT
        )
        and b.ipv4_count > 0
        and ipv4_source_be(ip) == b.ipv4_be[0]
    )


cdef inline int guest_check(
    switch_state *s, binding *b, const uint8_t *frame, uint32_t size, uint64_t now_ns
) noexcept nogil:
    """SENDS, or the PortDrop for which a guest's frame is dropped. *size* bytes of it are at *frame*: its head."""
    if guest_is_usual(b, frame, size):
        return SENDS
    return guest_check_slow(s, b, frame, size, now_ns)
