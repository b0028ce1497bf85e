"""What a guest may send: its own MAC and addresses, ARP about itself, and nothing that only servers and routers send.

The rules of the kernel's bridge for its ports (host/linux/rules_bridge.py) say the same, in the same order.
Addresses of IPv6 are guest_check6.pyx's.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.binding cimport (
    SENDS, STORM_BURST, STORM_INTERVAL_NS, binding, binding_has_ipv4, within,
)
from arcbox_net.dataplane.fdb cimport FDB_OK
from arcbox_net.dataplane.guest_check6 cimport guest_check6
from arcbox_net.dataplane.learning cimport learn_mac
from arcbox_net.dataplane.port cimport (
    PORT_DROP_ARP, PORT_DROP_DHCP, PORT_DROP_SHORT, PORT_DROP_SOURCE_IP, PORT_DROP_SOURCE_MAC, PORT_DROP_STORM,
    PORT_DROP_VLAN,
)
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.wire.arp cimport ARP_REQUEST, ARP_SENDER_MAC, arp_check, arp_operation, arp_sender_be, arp_target_be
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_is_group,
    ethernet_mac, ethernet_type,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_HEADER_BYTES, ipv4_destination_be, ipv4_fragment_offset, ipv4_header_size, ipv4_protocol, ipv4_source_be,
)
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_DESTINATION_PORT, UDP_SOURCE_PORT

cdef enum:
    BROADCAST_BE = 0xFFFFFFFF


cdef int guest_check_slow(
    switch_state *s, binding *b, const uint8_t *frame, uint32_t size, uint64_t now_ns
) noexcept nogil:
    """As `guest_check`, for any frame of at least an Ethernet header."""
    cdef uint16_t ethertype = ethernet_type(frame)
    if ethernet_is_group(frame) and not within(&b.storm, STORM_INTERVAL_NS, STORM_BURST, now_ns):
        return PORT_DROP_STORM
    if not _has_mac(s, b, frame + ETHERNET_SOURCE):
        return PORT_DROP_SOURCE_MAC
    frame += ETHERNET_HEADER_BYTES
    size -= ETHERNET_HEADER_BYTES
    if ethertype == ETHERTYPE_IPV4:
        return _check_ipv4(b, frame, size)
    if ethertype == ETHERTYPE_IPV6:
        return guest_check6(s, b, frame, size, now_ns)
    if ethertype == ETHERTYPE_ARP:
        return _check_arp(b, frame - ETHERNET_HEADER_BYTES + ETHERNET_SOURCE, frame, size)
    return PORT_DROP_VLAN


cdef bint _has_mac(switch_state *s, const binding *b, const uint8_t *source) noexcept nogil:
    cdef uint64_t mac = ethernet_mac(source)
    if b.mac:
        return mac == b.mac
    if mac == 0 or ethernet_is_group(source):
        return False
    return learn_mac(s, b, mac) == FDB_OK


cdef int _check_ipv4(const binding *b, const uint8_t *ip, uint32_t size) noexcept nogil:
    cdef const uint8_t *udp = NULL
    if size < IPV4_HEADER_BYTES or ip[0] >> 4 != 4 or not IPV4_HEADER_BYTES <= ipv4_header_size(ip) <= size:
        return PORT_DROP_SHORT
    if ipv4_protocol(ip) == PROTOCOL_UDP and ipv4_fragment_offset(ip) == 0:
        if size - ipv4_header_size(ip) < PORTS_BYTES:
            return PORT_DROP_SHORT
        udp = ip + ipv4_header_size(ip)
        # Clients look at where an answer goes to, and not at which port it comes from.
        if load_u16(udp + UDP_SOURCE_PORT) == DHCP_SERVER_PORT:
            return PORT_DROP_DHCP
        if load_u16(udp + UDP_DESTINATION_PORT) == DHCP_CLIENT_PORT:
            return PORT_DROP_DHCP
    if b.any_ipv4 or binding_has_ipv4(b, ipv4_source_be(ip)):
        return SENDS
    if udp != NULL and ipv4_source_be(ip) == 0 and ipv4_destination_be(ip) == <uint32_t>BROADCAST_BE:
        if load_u16(udp + UDP_SOURCE_PORT) == DHCP_CLIENT_PORT:
            if load_u16(udp + UDP_DESTINATION_PORT) == DHCP_SERVER_PORT:
                return SENDS
    return PORT_DROP_SOURCE_IP


cdef int _check_arp(const binding *b, const uint8_t *source, const uint8_t *arp, uint32_t size) noexcept nogil:
    """*source* is the MAC that the frame comes from, which was checked."""
    cdef uint32_t sender_be
    if not arp_check(arp, size) or ethernet_mac(arp + ARP_SENDER_MAC) != ethernet_mac(source):
        return PORT_DROP_ARP
    sender_be = arp_sender_be(arp)
    if b.any_ipv4 or binding_has_ipv4(b, sender_be):
        return SENDS
    if sender_be == 0 and arp_operation(arp) == ARP_REQUEST and binding_has_ipv4(b, arp_target_be(arp)):
        return SENDS  # RFC 5227: asks whether its address is free. Asked for another's, that one would give it up
    return PORT_DROP_ARP
