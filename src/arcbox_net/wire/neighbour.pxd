"""Neighbour discovery (RFC 4861) and multicast listeners (RFC 2710, 3810): ICMPv6 that stays on its link."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    MLD_REPORT = 131
    MLD_DONE = 132
    ND_ROUTER_SOLICITATION = 133
    ND_ROUTER_ADVERTISEMENT = 134
    ND_NEIGHBOUR_SOLICITATION = 135
    ND_NEIGHBOUR_ADVERTISEMENT = 136
    ND_REDIRECT = 137
    MLD2_REPORT = 143
    ND_FLAGS = 4
    ND_TARGET = 8
    ND_OPTIONS = 24
    ND_BYTES_MIN = 24  # of a solicitation or an advertisement of a neighbour
    ND_HOP_LIMIT = 255  # what came through a router has less (RFC 4861 7.1)
    ND_SOLICITED = 0x40
    ND_OVERRIDE = 0x20
    ND_OPTION_SOURCE_MAC = 1
    ND_OPTION_TARGET_MAC = 2
    ND_OPTION_MAC_BYTES = 8


cdef inline bint nd_is_neighbour(uint8_t icmp_type) noexcept nogil:
    """Of a neighbour, and so with a target."""
    return icmp_type == ND_NEIGHBOUR_SOLICITATION or icmp_type == ND_NEIGHBOUR_ADVERTISEMENT


cdef inline bint nd_is_of_routers(uint8_t icmp_type) noexcept nogil:
    return icmp_type == ND_ROUTER_ADVERTISEMENT or icmp_type == ND_REDIRECT


cdef inline void ipv6_solicited_node(uint8_t *group, const uint8_t *address) noexcept nogil:
    """The group in which *address* is asked for (RFC 4291 2.7.1)."""
    memset(group, 0, IPV6_ADDRESS_BYTES)
    group[0] = 0xFF
    group[1] = 0x02
    group[11] = 0x01
    group[12] = 0xFF
    memcpy(group + 13, address + 13, 3)


cdef inline bint ipv6_is_unspecified(const uint8_t *address) noexcept nogil:
    cdef uint8_t found = 0
    cdef int i
    for i in range(IPV6_ADDRESS_BYTES):
        found |= address[i]
    return found == 0


cdef inline bint ipv6_is_link_local(const uint8_t *address) noexcept nogil:
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80
