"""What tests need of headers: each read whole once its check has passed, as a dictionary or None."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.wire.arp cimport (
    ARP_SENDER_MAC, ARP_TARGET_MAC, arp_check, arp_operation, arp_sender_be, arp_target_be,
)
from arcbox_net.wire.ethernet cimport (
    ETHERNET_DESTINATION, ETHERNET_SOURCE, ethernet_check, ethernet_is_group, ethernet_is_vlan, ethernet_type,
)
from arcbox_net.wire.icmp cimport (
    icmp_check, icmp_code, icmp_identifier_be, icmp_is_error, icmp_is_query, icmp_is_request, icmp_mtu,
    icmp_type, icmpv6_is_error, icmpv6_is_query,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_OPTIONS_BAD, IPV4_OPTIONS_SOURCE_ROUTE, ipv4_check, ipv4_checksum_ok, ipv4_decrement_ttl,
    ipv4_destination_be, ipv4_dont_fragment, ipv4_fragment_check, ipv4_fragment_offset, ipv4_header_size,
    ipv4_identification_be, ipv4_is_fragment, ipv4_more_fragments, ipv4_options, ipv4_protocol, ipv4_quote_check,
    ipv4_source_be, ipv4_total_length, ipv4_ttl, ipv4_walk_options,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_WALK_BAD, IPV6_WALK_FRAGMENT, IPV6_WALK_OK, ipv6_check, ipv6_fragment_check, ipv6_fragment_offset,
    ipv6_hop_limit, ipv6_identification_be, ipv6_is_atomic, ipv6_more_fragments, ipv6_next_header,
    ipv6_quote_check, ipv6_total_length, ipv6_upper, ipv6_upper_of_fragment, ipv6_walk,
)
from arcbox_net.wire.octets cimport order_u16
from arcbox_net.wire.tcp cimport (
    tcp_acknowledgment, tcp_check, tcp_destination_port_be, tcp_flags, tcp_flags_check, tcp_header_size,
    tcp_sequence, tcp_source_port_be, tcp_window,
)
from arcbox_net.wire.tcp_options cimport tcp_clamp_mss, tcp_options, tcp_read_options
from arcbox_net.wire.udp cimport udp_check, udp_destination_port_be, udp_length, udp_source_port_be
from arcbox_net.wire.virtio_net cimport VIRTIO_NET_HEADER_BYTES, virtio_net_header, virtio_shape_check


def ethernet(bytes frame):
    cdef const uint8_t *p = frame
    if not ethernet_check(p, len(frame)):
        return None
    return {
        "type": ethernet_type(p),
        "is_vlan": ethernet_is_vlan(p),
        "source_is_group": ethernet_is_group(p + ETHERNET_SOURCE),
        "destination_is_group": ethernet_is_group(p + ETHERNET_DESTINATION),
    }


def arp(bytes packet):
    cdef const uint8_t *p = packet
    if not arp_check(p, len(packet)):
        return None
    return {
        "operation": arp_operation(p),
        "sender_mac": packet[ARP_SENDER_MAC:ARP_SENDER_MAC + 6],
        "sender": _address(arp_sender_be(p)),
        "target_mac": packet[ARP_TARGET_MAC:ARP_TARGET_MAC + 6],
        "target": _address(arp_target_be(p)),
    }


def ipv4(bytes packet):
    cdef const uint8_t *p = packet
    if not ipv4_check(p, len(packet)):
        return None
    return {
        "header_size": ipv4_header_size(p),
        "total_length": ipv4_total_length(p),
        "identification": order_u16(ipv4_identification_be(p)),
        "dont_fragment": ipv4_dont_fragment(p),
        "more_fragments": ipv4_more_fragments(p),
        "fragment_offset": ipv4_fragment_offset(p),
        "is_fragment": ipv4_is_fragment(p),
        "ttl": ipv4_ttl(p),
        "protocol": ipv4_protocol(p),
        "source": _address(ipv4_source_be(p)),
        "destination": _address(ipv4_destination_be(p)),
        "checksum_ok": ipv4_checksum_ok(p),
    }


def ipv4_options_of(bytes packet):
    """What the walk of a checked packet's options says."""
    cdef ipv4_options found = ipv4_walk_options(packet)
    if found == IPV4_OPTIONS_BAD:
        return "bad"
    return "source route" if found == IPV4_OPTIONS_SOURCE_ROUTE else "ok"


def ipv4_can_be_fragment(bytes packet):
    return ipv4_fragment_check(packet)


def ipv4_can_be_quoted(bytes packet):
    return ipv4_quote_check(packet, len(packet))


def ipv4_next_hop(bytes packet):
    """The packet with its TTL decremented."""
    cdef bytes forwarded = bytes(bytearray(packet))
    ipv4_decrement_ttl(<uint8_t *>forwarded, 0)
    return forwarded


def ipv6(bytes packet):
    cdef const uint8_t *p = packet
    if not ipv6_check(p, len(packet)):
        return None
    return {
        "total_length": ipv6_total_length(p),
        "next_header": ipv6_next_header(p),
        "hop_limit": ipv6_hop_limit(p),
    }


def ipv6_upper_of(bytes packet):
    """What the walk of a checked packet's headers says, with the protocol and the offset that it found."""
    cdef uint8_t protocol = 0
    cdef uint32_t offset = 0
    return _walked(ipv6_upper(packet, &protocol, &offset)), protocol, offset


def ipv6_upper_of_first_fragment(bytes packet):
    cdef uint8_t protocol = 0
    cdef uint32_t offset = 0
    return _walked(ipv6_upper_of_fragment(packet, &protocol, &offset)), protocol, offset


def ipv6_fragment(bytes packet, uint32_t offset):
    """The fragment header at *offset* of a packet whose headers were walked."""
    cdef const uint8_t *p = packet
    return {
        "offset": ipv6_fragment_offset(p + offset),
        "more": ipv6_more_fragments(p + offset),
        "is_atomic": ipv6_is_atomic(p + offset),
        "identification": _address(ipv6_identification_be(p + offset)),
        "possible": ipv6_fragment_check(p, p + offset),
    }


def ipv6_can_be_quoted(bytes packet):
    return ipv6_quote_check(packet, len(packet))


def icmp(bytes message):
    cdef const uint8_t *p = message
    if not icmp_check(p, len(message)):
        return None
    return {
        "type": icmp_type(p),
        "code": icmp_code(p),
        "identifier": order_u16(icmp_identifier_be(p)),
        "mtu": icmp_mtu(p),
        "is_error": icmp_is_error(p),
        "is_query": icmp_is_query(p),
        "is_request": icmp_is_request(p),
        "is_error6": icmpv6_is_error(p),
        "is_query6": icmpv6_is_query(p),
    }


def udp(bytes datagram):
    cdef const uint8_t *p = datagram
    if not udp_check(p, len(datagram)):
        return None
    return {
        "source_port": order_u16(udp_source_port_be(p)),
        "destination_port": order_u16(udp_destination_port_be(p)),
        "length": udp_length(p),
    }


def tcp(bytes segment):
    cdef const uint8_t *p = segment
    if not tcp_check(p, len(segment)):
        return None
    return {
        "source_port": order_u16(tcp_source_port_be(p)),
        "destination_port": order_u16(tcp_destination_port_be(p)),
        "sequence": tcp_sequence(p),
        "acknowledgment": tcp_acknowledgment(p),
        "header_size": tcp_header_size(p),
        "flags": tcp_flags(p),
        "flags_ok": tcp_flags_check(tcp_flags(p)),
        "window": tcp_window(p),
    }


def tcp_options_of(bytes segment):
    """The options of a checked segment; None when they are malformed."""
    cdef tcp_options options
    return options if tcp_read_options(segment, &options) else None


def clamped(bytes segment, uint16_t mss_max, bint partial=False):
    """Whether the MSS was lowered, and the segment then."""
    cdef tcp_options options
    cdef bytes result = bytes(bytearray(segment))
    tcp_read_options(result, &options)
    lowered = tcp_clamp_mss(<uint8_t *>result, &options, mss_max, partial)
    return lowered, result


def virtio_fits(bytes header, size_t size):
    """Whether a frame of *size* bytes may follow the header."""
    cdef virtio_net_header copy
    if len(header) != VIRTIO_NET_HEADER_BYTES:
        raise ValueError(f"{len(header)} bytes: a header has {VIRTIO_NET_HEADER_BYTES}")
    memcpy(&copy, <const uint8_t *>header, VIRTIO_NET_HEADER_BYTES)
    return virtio_shape_check(&copy, size)


cdef bytes _address(uint32_t address_be):
    return (<const uint8_t *>&address_be)[:4]


cdef str _walked(ipv6_walk walk):
    return {IPV6_WALK_OK: "ok", IPV6_WALK_BAD: "bad", IPV6_WALK_FRAGMENT: "fragment"}[walk]
