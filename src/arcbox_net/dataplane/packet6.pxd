"""An IPv6 packet in a frame: one check of all that is known without a table, as packet.pxd's for IPv4.

In `packet.protocol` and in keys ICMPv6 has ICMP's number: the family is said by the key's KEY_IPV6 bit.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.flow cimport KEY_IPV6_SHIFT
from arcbox_net.dataplane.packet cimport (
    PACKET_FLOW, PACKET_FRAGMENT, PACKET_OTHER, packet, packet_key, packet_l4_check, packet_offload_check,
)
from arcbox_net.dataplane.verdict cimport DROP_BAD_HEADER, DROP_BAD_L4, DROP_FIRST, Direction
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV6, ethernet_type
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP, PROTOCOL_ICMPV6
from arcbox_net.wire.ipv6 cimport (
    IPV6_PAYLOAD_MAX, IPV6_WALK_BAD, IPV6_WALK_FRAGMENT, ipv6_check, ipv6_hop_limit, ipv6_total_length, ipv6_upper,
    ipv6_walk,
)
from arcbox_net.wire.octets cimport load_u16_be, load_u32_be
from arcbox_net.wire.udp cimport PROTOCOL_UDP, udp_checksum_be
from arcbox_net.wire.virtio_net cimport VIRTIO_GSO_TCPV6


cdef inline bint frame_is_ipv6(const frame *whole) noexcept nogil:
    if whole.l3:
        if whole.l3 != ETHERNET_HEADER_BYTES or whole.size < ETHERNET_HEADER_BYTES:
            return False
        return ethernet_type(whole.data) == ETHERTYPE_IPV6
    return whole.size > 0 and whole.data[0] >> 4 == 6


cdef inline uint64_t packet6_key(uint32_t numbers, uint8_t protocol, Direction direction) noexcept nogil:
    return packet_key(numbers, protocol, direction) | <uint64_t>1 << KEY_IPV6_SHIFT


cdef inline uint8_t _find_l4(packet *found) noexcept nogil:
    """PACKET_FLOW when the upper layer is found behind the extension headers, PACKET_FRAGMENT, or a drop reason."""
    cdef uint32_t offset
    cdef ipv6_walk walk = ipv6_upper(found.ip, &found.protocol, &offset)
    if walk == IPV6_WALK_FRAGMENT:
        return PACKET_FRAGMENT
    if walk == IPV6_WALK_BAD:
        return DROP_BAD_HEADER
    found.l4 = found.ip + offset
    found.l4_size = found.size - offset
    return PACKET_FLOW


cdef inline uint8_t _l4_check(packet *found) noexcept nogil:
    if found.protocol == PROTOCOL_ICMP:
        return PACKET_OTHER
    if found.protocol == PROTOCOL_ICMPV6:
        found.protocol = PROTOCOL_ICMP
    return packet_l4_check(found)


cdef inline uint8_t packet6_check(frame *whole, Direction direction, packet *found) noexcept nogil:
    """What is in an IPv6 frame, or why it is dropped. What follows the packet in its frame is cut off."""
    cdef uint8_t kind
    found.ip = whole.data + whole.l3
    if not ipv6_check(found.ip, whole.size - whole.l3):
        return DROP_BAD_HEADER
    found.size = found.wire_size = ipv6_total_length(found.ip)
    whole.size = whole.l3 + found.size
    found.direction = direction
    found.unusual = ipv6_hop_limit(found.ip) < 2
    found.partial = False
    found.gso = False
    kind = _find_l4(found)
    if kind == PACKET_FLOW:
        kind = _l4_check(found)
    if kind >= DROP_FIRST or kind == PACKET_FRAGMENT:
        return kind
    if whole.flags & FRAME_VNET and load_u16_be(whole.data - FRAME_VNET_BYTES) != 0:
        kind = packet_offload_check(whole, found, kind, IPV6_PAYLOAD_MAX, VIRTIO_GSO_TCPV6)
    if kind == PACKET_FLOW:
        if found.protocol == PROTOCOL_UDP and udp_checksum_be(found.l4) == 0:
            return DROP_BAD_L4  # RFC 8200 8.1: IPv6 has no other sum
        found.key_rest = packet6_key(load_u32_be(found.l4), found.protocol, direction)
    return kind
