"""An IPv4 packet in a frame: one check of all that is known without a table, and what was found.

Hostile bytes end here: behind `packet_check` the header, the L4 header and every length lie within the frame.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.abi.bits cimport abx_choose_u32
from arcbox_net.dataplane.flow cimport KEY_DIRECTION_SHIFT, KEY_PROTOCOL_SHIFT, KEY_VALID_SHIFT
from arcbox_net.dataplane.verdict cimport (
    DROP_BAD_HEADER, DROP_BAD_IP_CHECKSUM, DROP_BAD_L4, DROP_BAD_OFFLOAD, DROP_BAD_TCP_FLAGS, DROP_SOURCE_ROUTE,
    DROP_UNKNOWN_PROTOCOL, INBOUND, OUTBOUND, Direction,
)
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ethernet_type
from arcbox_net.wire.icmp cimport ICMP_HEADER_BYTES, PROTOCOL_ICMP
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_OPTIONS_BAD, IPV4_OPTIONS_OK, IPV4_OPTIONS_SOURCE_ROUTE, IPV4_SOURCE,
    ipv4_check, ipv4_checksum_ok, ipv4_dont_fragment, ipv4_header_size, ipv4_is_fragment, ipv4_options, ipv4_protocol,
    ipv4_total_length, ipv4_ttl, ipv4_walk_options,
)
from arcbox_net.wire.octets cimport load_u16_be, load_u32_be
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_ACK, TCP_CHECKSUM, TCP_HEADER_BYTES, tcp_flags, tcp_flags_check, tcp_header_size,
)
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_CHECKSUM, UDP_HEADER_BYTES, udp_length
from arcbox_net.wire.virtio_net cimport (
    VIRTIO_GSO_ECN, VIRTIO_GSO_NONE, VIRTIO_GSO_TCPV4, VIRTIO_GSO_UDP_L4, VIRTIO_NEEDS_CSUM, virtio_check,
    virtio_net_header, virtio_shape_check,
)

cdef enum:  # what `packet_check` returns, unless it is a drop reason
    PACKET_FLOW = 0  # TCP or UDP, whole: `key_addresses` and `key_rest` are set
    PACKET_ICMP = 1
    PACKET_FRAGMENT = 2
    PACKET_OTHER = 3  # of another protocol

cdef enum:  # `packet.unusual`
    PACKET_LAST_HOP = 1  # TTL 0 or 1
    PACKET_TOO_BIG = 2
    PACKET_NUMBERED = 4  # a guest's that routers may cut: its identification matters, and is ours to choose

cdef struct packet:
    uint64_t key_addresses
    uint64_t key_rest
    uint64_t hash
    uint8_t *ip
    uint8_t *l4
    uint32_t l4_size
    uint32_t size  # of the IP packet
    uint32_t wire_size  # of the largest packet that this becomes on a wire
    uint32_t half
    uint8_t direction
    uint8_t protocol
    uint8_t tcp  # 1: it is that, 0: it is not
    uint8_t unusual
    uint8_t partial  # the L4 checksum field holds the pseudo header's sum
    uint8_t gso


cdef inline uint8_t _options_check(const uint8_t *ip) noexcept nogil:
    cdef ipv4_options options = ipv4_walk_options(ip)
    if options == IPV4_OPTIONS_OK:
        return PACKET_FLOW
    return DROP_SOURCE_ROUTE if options == IPV4_OPTIONS_SOURCE_ROUTE else DROP_BAD_HEADER


cdef inline uint8_t packet_offload_check(
    const frame *whole, packet *found, uint8_t kind, uint32_t mtu, uint8_t gso_tcp
) noexcept nogil:
    """The virtio-net header of a frame that has one which asks for something. *gso_tcp* is the IP version's."""
    cdef virtio_net_header header
    cdef uint32_t l4_offset = <uint32_t>(found.l4 - whole.data)
    cdef uint8_t gso
    memcpy(&header, whole.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES)
    found.partial = header.flags & VIRTIO_NEEDS_CSUM != 0
    found.gso = header.gso_type != VIRTIO_GSO_NONE
    if kind != PACKET_FLOW:
        # Nobody leaves the checksum of ICMP or of a part of a packet to others.
        if found.gso or (found.partial and kind != PACKET_OTHER):
            return DROP_BAD_OFFLOAD
        if found.partial and header.csum_start < l4_offset:  # the sum would be written over the header
            return DROP_BAD_OFFLOAD
        return kind if virtio_shape_check(&header, whole.size) else DROP_BAD_OFFLOAD
    if not virtio_check(
        &header, l4_offset, TCP_CHECKSUM if found.protocol == PROTOCOL_TCP else UDP_CHECKSUM, whole.size
    ):
        return DROP_BAD_OFFLOAD
    if found.gso:
        gso = header.gso_type & <uint8_t>~VIRTIO_GSO_ECN
        if gso != (gso_tcp if found.protocol == PROTOCOL_TCP else VIRTIO_GSO_UDP_L4):
            return DROP_BAD_OFFLOAD
        l4_offset = tcp_header_size(found.l4) if found.protocol == PROTOCOL_TCP else UDP_HEADER_BYTES
        found.wire_size = min(found.size, <uint32_t>(found.l4 - found.ip) + l4_offset + header.gso_size)
        found.unusual &= <uint8_t>~PACKET_TOO_BIG
        found.unusual |= (found.wire_size > mtu) * PACKET_TOO_BIG
    return PACKET_FLOW


cdef inline const uint8_t *packet_segment(const uint8_t *l4, uint32_t tcp) noexcept nogil:
    """The TCP header, or where reading one does no harm: in the IP header."""
    return l4 - (<size_t>(tcp ^ 1) << 4)


cdef inline uint8_t packet_l4_check(packet *found) noexcept nogil:
    """Sets `found.tcp`. As `tcp_check` and `udp_check`, without a branch on which it is: traffic mixes them, and a
    branch that is predicted wrongly costs more than the rest of the check.
    """
    cdef uint32_t tcp = found.protocol == PROTOCOL_TCP
    cdef uint32_t least, size
    cdef const uint8_t *segment = packet_segment(found.l4, tcp)
    found.tcp = <uint8_t>tcp
    if not _has_ports(found.protocol):
        if found.protocol != PROTOCOL_ICMP:
            return PACKET_OTHER
        return PACKET_ICMP if found.l4_size >= ICMP_HEADER_BYTES else DROP_BAD_L4
    least = UDP_HEADER_BYTES + (TCP_HEADER_BYTES - UDP_HEADER_BYTES) * tcp
    if found.l4_size < least:
        return DROP_BAD_L4
    size = abx_choose_u32(tcp, tcp_header_size(segment), udp_length(found.l4))
    if size - least > found.l4_size - least:
        return DROP_BAD_L4
    # A datagram counts as a segment that is all right.
    if tcp_flags_check(<uint8_t>abx_choose_u32(tcp, tcp_flags(segment), TCP_ACK)):
        return PACKET_FLOW
    return DROP_BAD_TCP_FLAGS


cdef inline bint _has_ports(uint8_t protocol) noexcept nogil:
    """TCP or UDP. By a set of bits: two comparisons become two branches."""
    return protocol < 64 and (<uint64_t>1 << PROTOCOL_TCP | <uint64_t>1 << PROTOCOL_UDP) >> protocol & 1


cdef inline uint64_t packet_key(uint32_t numbers, uint8_t protocol, Direction direction) noexcept nogil:
    return (
        <uint64_t>numbers
        | <uint64_t>protocol << KEY_PROTOCOL_SHIFT
        | <uint64_t>direction << KEY_DIRECTION_SHIFT
        | <uint64_t>1 << KEY_VALID_SHIFT
    )


cdef inline uint8_t packet_check(frame *whole, Direction direction, uint32_t mtu, packet *found) noexcept nogil:
    """What is in a frame, or why it is dropped. What follows the packet in its frame is cut off."""
    cdef uint8_t *ip = whole.data + whole.l3
    cdef uint32_t header_size, size
    cdef uint8_t kind
    if whole.l3:
        if whole.l3 != ETHERNET_HEADER_BYTES or whole.size < ETHERNET_HEADER_BYTES:
            return DROP_UNKNOWN_PROTOCOL
        if ethernet_type(whole.data) != ETHERTYPE_IPV4:
            return DROP_UNKNOWN_PROTOCOL
    if not ipv4_check(ip, whole.size - whole.l3):
        return DROP_BAD_HEADER
    header_size = ipv4_header_size(ip)
    size = ipv4_total_length(ip)
    if not ipv4_checksum_ok(ip):
        return DROP_BAD_IP_CHECKSUM
    if header_size != IPV4_HEADER_BYTES:
        kind = _options_check(ip)
        if kind != PACKET_FLOW:
            return kind
    whole.size = whole.l3 + size
    found.ip = ip
    found.l4 = ip + header_size
    found.l4_size = size - header_size
    found.size = size
    found.wire_size = size
    found.direction = direction
    found.protocol = ipv4_protocol(ip)
    found.unusual = (ipv4_ttl(ip) < 2) | (size > mtu) * PACKET_TOO_BIG
    if direction == OUTBOUND:
        found.unusual |= (not ipv4_dont_fragment(ip)) * PACKET_NUMBERED
    found.partial = False
    found.gso = False
    memcpy(&found.key_addresses, ip + IPV4_SOURCE, 8)
    kind = PACKET_FRAGMENT if ipv4_is_fragment(ip) else packet_l4_check(found)
    if kind >= DROP_BAD_HEADER:
        return kind
    if whole.flags & FRAME_VNET and load_u16_be(whole.data - FRAME_VNET_BYTES) != 0:
        kind = packet_offload_check(whole, found, kind, mtu, VIRTIO_GSO_TCPV4)
    if kind == PACKET_FLOW:
        found.key_rest = packet_key(load_u32_be(found.l4), found.protocol, direction)
    return kind


cdef inline uint32_t packet_source_be(const packet *found) noexcept nogil:
    return load_u32_be(found.ip + IPV4_SOURCE)


cdef inline uint32_t packet_destination_be(const packet *found) noexcept nogil:
    return load_u32_be(found.ip + IPV4_DESTINATION)


cdef inline bint packet_may_fragment(const packet *found) noexcept nogil:
    return not found.gso and not ipv4_dont_fragment(found.ip)


cdef inline Direction packet_back(const packet *found) noexcept nogil:
    """Where an answer to its sender goes."""
    return INBOUND if found.direction == OUTBOUND else OUTBOUND
