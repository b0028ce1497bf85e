"""Owns how a router finds MAC addresses (RFC 826, RFC 4861), and how others find its own.

It answers for the engine's external addresses and its link-local one, on the uplink; inside, the gateway answers for
itself. A neighbour that is not sought and does not ask for us is not remembered (RFC 826 "merge").
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.dataplane.addresses6 cimport is_external6
from arcbox_net.dataplane.mapping cimport is_configured
from arcbox_net.dataplane.neighbours cimport (
    NEIGHBOUR_KNOWN, NEIGHBOUR_SOUGHT, neighbour, neighbour_hear, neighbour_is_key4, neighbour_key4,
    neighbours_find, neighbours_seek,
)
from arcbox_net.dataplane.router_groups cimport router_hears_query
from arcbox_net.dataplane.router_send cimport router_send_frame, send_waiting
from arcbox_net.dataplane.router_state cimport router, router_side
from arcbox_net.dataplane.shares cimport sharer
from arcbox_net.dataplane.verdict cimport OUTBOUND, Direction
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.wire.arp cimport (
    ARP_BYTES, ARP_ETHERNET, ARP_HARDWARE_SIZE, ARP_HARDWARE_TYPE, ARP_OPERATION, ARP_PROTOCOL_SIZE,
    ARP_PROTOCOL_TYPE, ARP_REPLY, ARP_REQUEST, ARP_SENDER_IP, ARP_SENDER_MAC, ARP_TARGET_IP, ARP_TARGET_MAC,
    arp_check, arp_operation, arp_sender_be, arp_target_be,
)
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold, checksum_store, pseudo_sum
from arcbox_net.wire.ethernet cimport (
    ETHERNET_DESTINATION, ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6,
    MAC_BYTES, ethernet_is_group, ethernet_set_type, ethernet_type,
)
from arcbox_net.wire.icmp cimport ICMP_CHECKSUM, PROTOCOL_ICMPV6
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_HOP_BY_HOP, IPV6_HOP_LIMIT, IPV6_SOURCE,
    ipv6_check, ipv6_hop_limit, ipv6_next_header, ipv6_total_length, ipv6_write,
)
from arcbox_net.wire.neighbour cimport (
    ND_BYTES_MIN, ND_FLAGS, ND_HOP_LIMIT, ND_NEIGHBOUR_ADVERTISEMENT, ND_NEIGHBOUR_SOLICITATION, ND_OPTION_MAC_BYTES,
    ND_OPTION_SOURCE_MAC, ND_OPTION_TARGET_MAC, ND_OPTIONS, ND_OVERRIDE, ND_SOLICITED, ND_TARGET,
    ipv6_is_link_local, ipv6_is_unspecified, ipv6_solicited_node, nd_is_neighbour,
)
from arcbox_net.wire.octets cimport store_u16, store_u32, store_u32_be

cdef enum:
    ND_MESSAGE_BYTES = ND_OPTIONS + ND_OPTION_MAC_BYTES
    ND_FRAME_BYTES = ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + ND_MESSAGE_BYTES
    ROOM_BYTES = FRAME_VNET_BYTES + ND_FRAME_BYTES


cdef void router_ask(router *r, Direction towards, const uint8_t *key) noexcept nogil:
    """Ask all neighbours of a side who has *key*."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint8_t solicited[IPV6_ADDRESS_BYTES]
    cdef uint8_t to[MAC_BYTES]
    cdef uint32_t target_be
    cdef const uint8_t *source = side.address6
    if neighbour_is_key4(key):
        memcpy(&target_be, key + 12, 4)
        memset(to, 0xFF, MAC_BYTES)
        _send_arp(r, towards, ARP_REQUEST, to, target_be, side.address_be)
        return
    if ipv6_is_link_local(key):
        source = side.link_local6
    ipv6_solicited_node(solicited, key)
    store_u16(to, 0x3333)
    memcpy(to + 2, solicited + 12, 4)
    _send_nd(r, towards, ND_NEIGHBOUR_SOLICITATION, to, solicited, source, key, 0)


cdef bint router_hears(
    router *r, Direction towards, const uint8_t *frame, uint32_t size, bint summed
) noexcept nogil:
    """Whether a frame from that side is of ARP, neighbour or listener discovery, and so is no packet to translate.

    *summed*: somebody else has checked or has yet to compute its checksum.
    """
    cdef const uint8_t *packet = frame + ETHERNET_HEADER_BYTES
    size -= ETHERNET_HEADER_BYTES
    if ethernet_type(frame) == ETHERTYPE_ARP:
        if arp_check(packet, size) and not ethernet_is_group(packet + ARP_SENDER_MAC):
            _hear_arp(r, towards, packet)
        return True
    if ethernet_type(frame) != ETHERTYPE_IPV6 or not ipv6_check(packet, size):
        return False
    if ipv6_next_header(packet) == IPV6_HOP_BY_HOP:
        return towards == OUTBOUND and router_hears_query(r, packet, summed)
    if ipv6_next_header(packet) != PROTOCOL_ICMPV6 or ipv6_total_length(packet) < IPV6_HEADER_BYTES + ND_BYTES_MIN:
        return False
    if not nd_is_neighbour(packet[IPV6_HEADER_BYTES]):
        return False
    if ipv6_hop_limit(packet) == ND_HOP_LIMIT and (summed or _is_summed(packet)):
        _hear_nd(r, towards, frame, packet)
    return True


cdef void _hear_arp(router *r, Direction towards, const uint8_t *arp) noexcept nogil:
    cdef uint8_t key[IPV6_ADDRESS_BYTES]
    cdef bint asks = (
        towards == OUTBOUND
        and arp_operation(arp) == ARP_REQUEST
        and is_configured(&r.engine.mappings, arp_target_be(arp))
    )
    # Who only probes (RFC 5227), or says to be us, is no neighbour.
    if arp_sender_be(arp) != 0 and not is_configured(&r.engine.mappings, arp_sender_be(arp)):
        neighbour_key4(key, arp_sender_be(arp))
        _hear(r, towards, key, arp + ARP_SENDER_MAC, asks)
    if asks:
        _send_arp(r, towards, ARP_REPLY, arp + ARP_SENDER_MAC, arp_sender_be(arp), arp_target_be(arp))


cdef void _hear_nd(router *r, Direction towards, const uint8_t *frame, const uint8_t *ip) noexcept nogil:
    cdef const uint8_t *icmp = ip + IPV6_HEADER_BYTES
    cdef uint32_t size = ipv6_total_length(ip) - IPV6_HEADER_BYTES
    cdef bint asks = icmp[0] == ND_NEIGHBOUR_SOLICITATION
    cdef const uint8_t *mac = _option(
        icmp, size, ND_OPTION_SOURCE_MAC if asks else ND_OPTION_TARGET_MAC, frame + ETHERNET_SOURCE
    )
    if mac == NULL or ethernet_is_group(mac):
        return
    if not asks:
        _hear(r, towards, icmp + ND_TARGET, mac, False)
    elif towards == OUTBOUND and _is_ours6(r, icmp + ND_TARGET):
        _answer_nd(r, towards, ip, icmp + ND_TARGET, mac)


cdef void _answer_nd(
    router *r, Direction towards, const uint8_t *ip, const uint8_t *target, const uint8_t *mac
) noexcept nogil:
    cdef uint8_t all_nodes[IPV6_ADDRESS_BYTES]
    cdef uint8_t to[MAC_BYTES]
    if not ipv6_is_unspecified(ip + IPV6_SOURCE):
        _hear(r, towards, ip + IPV6_SOURCE, mac, True)
        _send_nd(
            r, towards, ND_NEIGHBOUR_ADVERTISEMENT, mac, ip + IPV6_SOURCE, target, target,
            ND_SOLICITED | ND_OVERRIDE,
        )
        return
    memset(all_nodes, 0, IPV6_ADDRESS_BYTES)  # who searches for duplicates has no address yet
    all_nodes[0] = 0xFF
    all_nodes[1] = 0x02
    all_nodes[15] = 0x01
    store_u16(to, 0x3333)
    memcpy(to + 2, all_nodes + 12, 4)
    _send_nd(r, towards, ND_NEIGHBOUR_ADVERTISEMENT, to, all_nodes, target, target, ND_OVERRIDE)


cdef void _hear(router *r, Direction towards, const uint8_t *key, const uint8_t *mac, bint learns) noexcept nogil:
    """*key* is at *mac*: remember it if it is sought or known, or when it *learns* of one that will be needed."""
    cdef sharer uplink
    if learns or neighbours_find(&r.sides[<int>towards].neighbours, key) != NULL:
        uplink.port = r.uplink
        uplink.mac = 0
        router_learns(r, towards, key, mac, &uplink, False)


cdef void router_learns(
    router *r, Direction towards, const uint8_t *key, const uint8_t *mac, const sharer *by, bint by_leg
) noexcept nogil:
    """*key* was heard from *mac*: remember it, if there is room, and send what waits for it."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef neighbour *one = neighbours_find(&side.neighbours, key)
    cdef bint sought
    if one == NULL:
        one = neighbours_seek(&side.neighbours, key, by, r.now_s)
    if one == NULL:
        return
    sought = one.state == NEIGHBOUR_SOUGHT
    if not one.told:
        one.by_leg = by_leg
    neighbour_hear(&side.neighbours, one, mac, r.now_s)
    if sought and one.state == NEIGHBOUR_KNOWN:
        send_waiting(r, towards, one)


cdef bint _is_ours6(const router *r, const uint8_t *target) noexcept nogil:
    if memcmp(target, r.sides[<int>OUTBOUND].link_local6, IPV6_ADDRESS_BYTES) == 0:
        return True
    return is_external6(r.engine, target)


cdef bint _is_summed(const uint8_t *ip) noexcept nogil:
    """Whether the checksum of an ICMPv6 message is right."""
    cdef uint32_t size = ipv6_total_length(ip) - IPV6_HEADER_BYTES
    return checksum_fold(checksum_add(
        pseudo_sum(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, IPV6_ADDRESS_BYTES, PROTOCOL_ICMPV6, size),
        ip + IPV6_HEADER_BYTES, size,
    )) == 0xFFFF


cdef const uint8_t *_option(
    const uint8_t *icmp, uint32_t size, uint8_t kind, const uint8_t *otherwise
) noexcept nogil:
    """The MAC address in an option of that kind, or *otherwise*; NULL when options lie about their sizes.

    As many steps as there are eight bytes: RFC 4861 4.6 has no option of size 0.
    """
    cdef uint32_t at = ND_OPTIONS, option
    while size - at >= ND_OPTION_MAC_BYTES:
        option = <uint32_t>icmp[at + 1] * 8
        if option == 0 or option > size - at:
            return NULL
        if icmp[at] == kind:
            return icmp + at + 2
        at += option
    return otherwise


cdef void _send_arp(
    router *r, Direction towards, uint16_t operation, const uint8_t *to, uint32_t target_be, uint32_t sender_be
) noexcept nogil:
    cdef uint8_t room[ROOM_BYTES]
    cdef uint8_t *frame = room + FRAME_VNET_BYTES
    cdef uint8_t *arp = frame + ETHERNET_HEADER_BYTES
    cdef const uint8_t *own = r.sides[<int>towards].mac
    memcpy(frame + ETHERNET_DESTINATION, to, MAC_BYTES)
    memcpy(frame + ETHERNET_SOURCE, own, MAC_BYTES)
    ethernet_set_type(frame, ETHERTYPE_ARP)
    store_u16(arp + ARP_HARDWARE_TYPE, ARP_ETHERNET)
    store_u16(arp + ARP_PROTOCOL_TYPE, ETHERTYPE_IPV4)
    arp[ARP_HARDWARE_SIZE] = MAC_BYTES
    arp[ARP_PROTOCOL_SIZE] = 4
    store_u16(arp + ARP_OPERATION, operation)
    memcpy(arp + ARP_SENDER_MAC, own, MAC_BYTES)
    store_u32_be(arp + ARP_SENDER_IP, sender_be)
    memset(arp + ARP_TARGET_MAC, 0, MAC_BYTES)
    if operation == ARP_REPLY:
        memcpy(arp + ARP_TARGET_MAC, to, MAC_BYTES)
    store_u32_be(arp + ARP_TARGET_IP, target_be)
    router_send_frame(r, towards, frame, ETHERNET_HEADER_BYTES + ARP_BYTES)


cdef void _send_nd(
    router *r, Direction towards, uint8_t kind, const uint8_t *to, const uint8_t *destination,
    const uint8_t *source, const uint8_t *target, uint8_t flags,
) noexcept nogil:
    """A solicitation or an advertisement with our MAC in its option."""
    cdef uint8_t room[ROOM_BYTES]
    cdef uint8_t *frame = room + FRAME_VNET_BYTES
    cdef uint8_t *ip = frame + ETHERNET_HEADER_BYTES
    cdef uint8_t *icmp = ip + IPV6_HEADER_BYTES
    cdef const uint8_t *own = r.sides[<int>towards].mac
    memcpy(frame + ETHERNET_DESTINATION, to, MAC_BYTES)
    memcpy(frame + ETHERNET_SOURCE, own, MAC_BYTES)
    ethernet_set_type(frame, ETHERTYPE_IPV6)
    ipv6_write(ip, PROTOCOL_ICMPV6, ND_MESSAGE_BYTES)
    ip[IPV6_HOP_LIMIT] = ND_HOP_LIMIT
    memcpy(ip + IPV6_SOURCE, source, IPV6_ADDRESS_BYTES)
    memcpy(ip + IPV6_DESTINATION, destination, IPV6_ADDRESS_BYTES)
    store_u32(icmp, <uint32_t>kind << 24)
    store_u32(icmp + ND_FLAGS, <uint32_t>flags << 24)
    memcpy(icmp + ND_TARGET, target, IPV6_ADDRESS_BYTES)
    icmp[ND_OPTIONS] = ND_OPTION_SOURCE_MAC if kind == ND_NEIGHBOUR_SOLICITATION else ND_OPTION_TARGET_MAC
    icmp[ND_OPTIONS + 1] = 1
    memcpy(icmp + ND_OPTIONS + 2, own, MAC_BYTES)
    checksum_store(icmp + ICMP_CHECKSUM, checksum_add(
        pseudo_sum(source, destination, IPV6_ADDRESS_BYTES, PROTOCOL_ICMPV6, ND_MESSAGE_BYTES),
        icmp, ND_MESSAGE_BYTES,
    ))
    router_send_frame(r, towards, frame, ND_FRAME_BYTES)
