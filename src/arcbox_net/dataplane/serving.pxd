"""Which packets of guests the network answers itself, by a port whose other end is control: DHCP, and DNS's datagrams.

There is such a port where the uplink leads to a gateway that is not ours. What its DHCP server says reaches no guest.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.guest_check cimport DHCP_CLIENT_PORT, DHCP_SERVER_PORT, PORTS_BYTES
from arcbox_net.dataplane.switch_state cimport switch_network
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ethernet_is_group, ethernet_type
from arcbox_net.wire.ipv4 cimport (
    IPV4_HEADER_BYTES, ipv4_destination_be, ipv4_fragment_offset, ipv4_header_size, ipv4_protocol,
)
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_DESTINATION_PORT

cdef enum:
    DNS_PORT = 53
    SERVED_INTERVAL_NS = 250_000  # 4,000 frames of each guest in a second: one of them cannot keep control busy alone
    SERVED_BURST = 1000


cdef inline uint16_t _udp_destination(const uint8_t *frame, uint32_t size) noexcept nogil:
    """The port that a datagram goes to; 0 of all else, and of fragments behind the first."""
    cdef const uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    cdef uint32_t header
    if ethernet_type(frame) != ETHERTYPE_IPV4 or size < ETHERNET_HEADER_BYTES + IPV4_HEADER_BYTES:
        return 0
    header = ipv4_header_size(ip)
    if ip[0] >> 4 != 4 or header < IPV4_HEADER_BYTES or size - ETHERNET_HEADER_BYTES < header + PORTS_BYTES:
        return 0
    if ipv4_protocol(ip) != PROTOCOL_UDP or ipv4_fragment_offset(ip):
        return 0
    return load_u16(ip + header + UDP_DESTINATION_PORT)


cdef inline bint is_served(const switch_network *network, const uint8_t *frame, uint32_t size) noexcept nogil:
    """Whether a guest's frame goes to the service. Of DHCP that is all but what is for another host alone."""
    cdef uint16_t to = _udp_destination(frame, size)
    cdef uint32_t address_be
    if to != DHCP_SERVER_PORT and to != DNS_PORT:
        return False
    address_be = ipv4_destination_be(frame + ETHERNET_HEADER_BYTES)
    if address_be == network.gateway_be:
        return True
    return to == DHCP_SERVER_PORT and (ethernet_is_group(frame) or address_be == <uint32_t>0xFFFFFFFF)


cdef inline bint is_dhcp_answer(const uint8_t *frame, uint32_t size) noexcept nogil:
    return _udp_destination(frame, size) == DHCP_CLIENT_PORT
