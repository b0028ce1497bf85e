"""Which packets to the gateway's MAC leave the subnet, and so are the router's: the rest is for the gateway itself.

Left to it is also what no guest may reach, the cloud's metadata services (host/linux/never_routed.py): the host drops
and counts it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.addresses6 cimport is_unicast6, prefix6_has
from arcbox_net.dataplane.switch_state cimport switch_network
from arcbox_net.wire.ethernet cimport (
    ETHERNET_HEADER_BYTES, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_type,
)
from arcbox_net.wire.icmp cimport PROTOCOL_ICMPV6
from arcbox_net.wire.ipv4 cimport IPV4_DESTINATION, IPV4_HEADER_BYTES, ipv4_destination_be
from arcbox_net.wire.ipv6 cimport IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_NEXT_HEADER
from arcbox_net.wire.neighbour cimport ND_NEIGHBOUR_ADVERTISEMENT
from arcbox_net.wire.octets cimport load_u32


cdef inline bint leaves_subnet(const switch_network *network, const uint8_t *frame, uint32_t size) noexcept nogil:
    cdef uint16_t ethertype = ethernet_type(frame)
    cdef const uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    size -= ETHERNET_HEADER_BYTES
    if ethertype == ETHERTYPE_IPV4 and size >= IPV4_HEADER_BYTES:
        if ipv4_destination_be(ip) & network.subnet.mask_be == network.subnet.address_be:
            return False
        return not _is_never_routed(load_u32(ip + IPV4_DESTINATION))
    if ethertype == ETHERTYPE_IPV6 and size >= IPV6_HEADER_BYTES:
        return (
            network.has_subnet6
            and is_unicast6(ip + IPV6_DESTINATION)
            and not prefix6_has(&network.subnet6, ip + IPV6_DESTINATION)
            and not _is_never_routed6(ip + IPV6_DESTINATION)
        )
    return False


cdef inline bint _is_never_routed(uint32_t destination) noexcept nogil:
    cdef uint32_t first = destination >> 24
    return (
        first == 0 or first == 127 or first >= 224  # nobody in particular, this host, groups
        or destination >> 16 == 0xA9FE  # link-local
        or destination == 0x646464C8 or destination == <uint32_t>0xA83F8110  # 100.100.100.200, 168.63.129.16
    )


cdef inline bint _is_never_routed6(const uint8_t *to) noexcept nogil:
    cdef uint32_t first = load_u32(to), last = load_u32(to + 12)
    if first >> 16 == 0 or first >> 16 == 0x2002 or first >> 24 == 0xFF or first >> 23 == 0xFE80 >> 7:
        return True  # nobody in particular, this host, IPv4 in disguise, 6to4, groups, of one link or site
    if load_u32(to + 4) | load_u32(to + 8):
        return False
    if first == 0x0064FF9B:  # RFC 6052: IPv4 behind a NAT64
        return _is_never_routed(last)
    return (  # where clouds have their metadata
        (first == <uint32_t>0xFD0000C1 and last == <uint32_t>0xA9FEA9FE)
        or (last == 0x254 and (first == <uint32_t>0xFD000EC2 or first == <uint32_t>0xFD2000CE))
        or (last == 0x42 and first == <uint32_t>0xFD000042)
    )


cdef inline bint tells_mac(const uint8_t *frame, uint32_t size) noexcept nogil:
    """Whether it may be an answer to who asks for an address: ARP, or a neighbour's advertisement."""
    cdef const uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    if ethernet_type(frame) == ETHERTYPE_ARP:
        return True
    if ethernet_type(frame) != ETHERTYPE_IPV6 or size <= ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES:
        return False
    return ip[IPV6_NEXT_HEADER] == PROTOCOL_ICMPV6 and ip[IPV6_HEADER_BYTES] == ND_NEIGHBOUR_ADVERTISEMENT
