"""IPv6 as a guest may speak it: no router, no DHCP server, no address that is somebody else's.

Theory of operation
    Guests choose their addresses (SLAAC, with temporary ones), so nobody can say beforehand whose one is. The first to
    use it has it, for as long as it is used now and then (owners.pxd). A probe for duplicates counts as use: who probes
    first has the address, and nobody else can answer to deny it, nor probe for it until its owner is sure of it, which
    would be taken for an answer. Later probes pass: the owner answers them. The gateway's are never a guest's, nor any
    outside the network's prefix. Without a prefix, addresses are others' business: only routers and servers are looked
    for.

    Only TCP, UDP and ICMPv6 are let through, behind options at most and all within the frame's head: what is deeper,
    unknown or in fragments of ICMPv6 is how router advertisements hide from filters (RFC 7113, RFC 6980).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from arcbox_net.dataplane.addresses6 cimport prefix6_has
from arcbox_net.dataplane.binding cimport CLAIM_BURST, CLAIM_INTERVAL_NS, SENDS, binding, within
from arcbox_net.dataplane.learning cimport tell_owner
from arcbox_net.dataplane.owners cimport owner, owner_is_tentative, owner_uses, owners_claim, owners_find
from arcbox_net.dataplane.port cimport PORT_DROP_DHCP, PORT_DROP_ND, PORT_DROP_SHORT, PORT_DROP_SOURCE_IP
from arcbox_net.dataplane.switch_state cimport switch_network, switch_state
from arcbox_net.wire.icmp cimport ICMP_HEADER_BYTES, PROTOCOL_ICMPV6, icmp_type
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_EXTENSIONS_MAX, IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_NEXT_HEADER, IPV6_HEADER_BYTES,
    IPV6_SOURCE, IPV6_WALK_FRAGMENT, IPV6_WALK_OK, ipv6_follow, ipv6_fragment_offset,
    ipv6_hop_limit, ipv6_next_header, ipv6_walk,
)
from arcbox_net.wire.neighbour cimport (
    MLD2_REPORT, MLD_DONE, MLD_REPORT, ND_BYTES_MIN, ND_HOP_LIMIT, ND_NEIGHBOUR_ADVERTISEMENT,
    ND_NEIGHBOUR_SOLICITATION, ND_ROUTER_SOLICITATION, ND_TARGET, ipv6_is_link_local, ipv6_is_unspecified,
    nd_is_neighbour, nd_is_of_routers,
)
from arcbox_net.wire.octets cimport load_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_DESTINATION_PORT, UDP_SOURCE_PORT

cdef enum:
    DHCPV6_CLIENT_PORT = 546
    DHCPV6_SERVER_PORT = 547
    PORTS_BYTES = 4

cdef struct upper_layer:
    uint8_t protocol
    bint is_fragment
    bint is_first  # or the whole: it begins at `offset`
    uint32_t offset


cdef int guest_check6(
    switch_state *s, binding *b, const uint8_t *ip, uint32_t size, uint64_t now_ns
) noexcept nogil:
    """SENDS, or a PortDrop. *size* bytes of the packet are at *ip*."""
    cdef upper_layer upper
    if size < IPV6_HEADER_BYTES or ip[0] >> 4 != 6:
        return PORT_DROP_SHORT
    if not _find_upper(ip, size, &upper):
        return PORT_DROP_ND
    if upper.protocol == PROTOCOL_ICMPV6:
        if upper.is_fragment or size - upper.offset < ICMP_HEADER_BYTES:
            return PORT_DROP_ND
        return _check_icmpv6(s, b, ip, ip + upper.offset, size - upper.offset, now_ns)
    if upper.protocol != PROTOCOL_TCP and upper.protocol != PROTOCOL_UDP:
        return PORT_DROP_ND
    if upper.is_first:
        if size - upper.offset < PORTS_BYTES:
            return PORT_DROP_SHORT
        if upper.protocol == PROTOCOL_UDP:
            if load_u16(ip + upper.offset + UDP_SOURCE_PORT) == DHCPV6_SERVER_PORT:
                return PORT_DROP_DHCP
            if load_u16(ip + upper.offset + UDP_DESTINATION_PORT) == DHCPV6_CLIENT_PORT:
                return PORT_DROP_DHCP
    return _check_source(s, b, ip, now_ns)


cdef bint _find_upper(const uint8_t *ip, uint32_t size, upper_layer *upper) noexcept nogil:
    """False when the upper layer is not within the *size* bytes, or there is no telling what it is."""
    cdef uint32_t left = IPV6_EXTENSIONS_MAX
    cdef ipv6_walk walk
    upper.protocol = ipv6_next_header(ip)
    upper.offset = IPV6_HEADER_BYTES
    walk = ipv6_follow(ip, size, &upper.protocol, &upper.offset, &left)
    upper.is_fragment = walk == IPV6_WALK_FRAGMENT
    upper.is_first = True
    if walk != IPV6_WALK_FRAGMENT:
        return walk == IPV6_WALK_OK
    upper.is_first = ipv6_fragment_offset(ip + upper.offset) == 0
    upper.protocol = ip[upper.offset + IPV6_FRAGMENT_NEXT_HEADER]
    upper.offset += IPV6_FRAGMENT_BYTES
    return not upper.is_first or ipv6_follow(ip, size, &upper.protocol, &upper.offset, &left) == IPV6_WALK_OK


cdef int _check_icmpv6(
    switch_state *s, binding *b, const uint8_t *ip, const uint8_t *icmp, uint32_t size, uint64_t now_ns
) noexcept nogil:
    cdef uint8_t kind = icmp_type(icmp)
    if nd_is_of_routers(kind):
        return PORT_DROP_ND
    if nd_is_neighbour(kind) or kind == ND_ROUTER_SOLICITATION:
        if ipv6_hop_limit(ip) != ND_HOP_LIMIT or (nd_is_neighbour(kind) and size < ND_BYTES_MIN):
            return PORT_DROP_ND
    if not s.network.has_subnet6:
        return SENDS
    if kind == ND_NEIGHBOUR_ADVERTISEMENT and not _has_target(s, b, icmp + ND_TARGET, now_ns):
        return PORT_DROP_ND
    if not ipv6_is_unspecified(ip + IPV6_SOURCE):
        return _check_source(s, b, ip, now_ns)
    if kind == ND_NEIGHBOUR_SOLICITATION:
        return SENDS if _may_probe(s, b, icmp + ND_TARGET, now_ns) else PORT_DROP_ND
    if kind == ND_ROUTER_SOLICITATION or kind == MLD_REPORT or kind == MLD_DONE or kind == MLD2_REPORT:
        return SENDS
    return PORT_DROP_SOURCE_IP


cdef int _check_source(switch_state *s, binding *b, const uint8_t *ip, uint64_t now_ns) noexcept nogil:
    if not s.network.has_subnet6 or _has_target(s, b, ip + IPV6_SOURCE, now_ns):
        return SENDS
    return PORT_DROP_SOURCE_IP


cdef bint _may_probe(switch_state *s, binding *b, const uint8_t *target, uint64_t now_ns) noexcept nogil:
    """Whether a search for duplicates of *target* may pass."""
    cdef owner *one = owners_find(&s.owners, target)
    if one != NULL and one.port != b.number:
        return not owner_is_tentative(one, s.now_s)
    if one == NULL and _is_gateway(&s.network, target):
        return True
    if not _has_target(s, b, target, now_ns):
        return False
    owners_find(&s.owners, target).probed_s = s.now_s
    return True


cdef bint _has_target(switch_state *s, binding *b, const uint8_t *address, uint64_t now_ns) noexcept nogil:
    """Whether *address* is the guest's own, or becomes it now."""
    cdef owner *one = owners_find(&s.owners, address)
    if one != NULL:
        if one.port == b.number and owner_uses(one, s.now_s):
            tell_owner(s, address, b.number)
        return one.port == b.number
    if _is_gateway(&s.network, address):
        return False
    if not ipv6_is_link_local(address) and not prefix6_has(&s.network.subnet6, address):
        return False
    if not within(&b.claims, CLAIM_INTERVAL_NS, CLAIM_BURST, now_ns):
        return False
    if not owners_claim(&s.owners, address, b.number, s.now_s):
        return False
    tell_owner(s, address, b.number)
    return True


cdef bint _is_gateway(const switch_network *network, const uint8_t *address) noexcept nogil:
    """Of the gateway, or of all routers together (RFC 4291 2.6.1)."""
    cdef uint32_t i
    for i in range(network.gateway6_count):
        if memcmp(address, network.gateways6[i], IPV6_ADDRESS_BYTES) == 0:
            return True
    return memcmp(address, network.subnet6.address, IPV6_ADDRESS_BYTES) == 0
