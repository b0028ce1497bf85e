"""Which machine a packet of a guest came from: an engine's limits are kept by machines, not by addresses.

A machine is who has a link address, of which whoever feeds the engine has made sure: of IPv6 addresses it may take
millions. Where frames have no link address, or all have that of a router (`by_link` is False), a machine is an IPv4
address, or all IPv6 addresses with the same first bits.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.ethernet cimport ETHERNET_SOURCE, MAC_BYTES, ethernet_mac
from arcbox_net.wire.ipv4 cimport ipv4_source_be
from arcbox_net.wire.ipv6 cimport IPV6_SOURCE
from arcbox_net.wire.siphash cimport siphash13

cdef enum:
    MACHINE_KIND_SHIFT = 48
    MACHINE_BY_LINK = 1
    MACHINE_BY_IPV4 = 2
    MACHINE_OF_FORWARDS = 3
    MACHINE_BY_IPV6_SHIFT = 63

cdef struct machine_rule:
    bint by_link
    uint64_t mask6[2]  # as addresses lie in a header: the bits that tell machines apart
    uint64_t seed[2]


cdef inline uint64_t machine_of_ipv4(const machine_rule *rule, const frame *f, uint32_t source_be) noexcept nogil:
    """The machine that an IPv4 packet is from, by the source address that it came with."""
    if rule.by_link and f.l3 >= 2 * MAC_BYTES:
        return ethernet_mac(f.data + ETHERNET_SOURCE) | <uint64_t>MACHINE_BY_LINK << MACHINE_KIND_SHIFT
    return source_be | <uint64_t>MACHINE_BY_IPV4 << MACHINE_KIND_SHIFT


cdef inline uint64_t machine_of(const machine_rule *rule, const frame *f) noexcept nogil:
    """The machine that a guest's packet, whose IP header was checked and is as it came, is from."""
    cdef const uint8_t *ip = f.data + f.l3
    cdef uint64_t words[2]
    if ip[0] >> 4 == 4 or (rule.by_link and f.l3 >= 2 * MAC_BYTES):
        return machine_of_ipv4(rule, f, ipv4_source_be(ip))
    memcpy(words, ip + IPV6_SOURCE, sizeof(words))
    words[0] &= rule.mask6[0]
    words[1] &= rule.mask6[1]
    return siphash13(
        rule.seed[0], rule.seed[1], <const uint8_t *>words, sizeof(words)
    ) | <uint64_t>1 << MACHINE_BY_IPV6_SHIFT


cdef inline uint64_t machine_of_forwards(uint32_t inside_ip_be) noexcept nogil:
    """Who the forwards to an address are counted for, before anybody has used it."""
    return inside_ip_be | <uint64_t>MACHINE_OF_FORWARDS << MACHINE_KIND_SHIFT
