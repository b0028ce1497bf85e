"""What the two IP versions have in common as to fragments: where a part belongs, and the headers of the whole.

What can be no part of a datagram ends here: without bytes, out of step or beyond the end (RFC 791, RFC 8200 4.5), and
a first part without all headers up to the whole L4 header (RFC 3128, RFC 7112), or a part in the place of these.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.flow cimport KEY_DIRECTION_SHIFT, KEY_IPV6_SHIFT, KEY_PROTOCOL_SHIFT
from arcbox_net.dataplane.fragment_store cimport HEADERS_BYTES_MAX
from arcbox_net.dataplane.fragment_view cimport ECN_CONGESTION, fragment_view
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.wire.icmp cimport ICMP_HEADER_BYTES, PROTOCOL_ICMP, PROTOCOL_ICMPV6
from arcbox_net.wire.ipv4 cimport (
    IPV4_DF, IPV4_FRAGMENT, IPV4_LENGTH_MAX, IPV4_TOS, IPV4_TOTAL_LENGTH, ipv4_destination_be, ipv4_fragment_check,
    ipv4_fragment_offset, ipv4_header_size, ipv4_identification_be, ipv4_more_fragments, ipv4_protocol,
    ipv4_set_checksum, ipv4_source_be, ipv4_total_length,
)
from arcbox_net.wire.ipv6 cimport (
    IPV6_ADDRESS_BYTES, IPV6_FRAGMENT_BYTES, IPV6_FRAGMENT_NEXT_HEADER, IPV6_HEADER_BYTES, IPV6_NEXT_HEADER,
    IPV6_PAYLOAD_LENGTH, IPV6_PAYLOAD_MAX, IPV6_SOURCE, IPV6_WALK_FRAGMENT, IPV6_WALK_OK, ipv6_fragment_check,
    ipv6_fragment_offset, ipv6_identification_be, ipv6_more_fragments, ipv6_total_length, ipv6_upper,
    ipv6_upper_of_fragment,
)
from arcbox_net.wire.octets cimport load_u16, store_u16
from arcbox_net.wire.siphash cimport siphash13
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_HEADER_BYTES, tcp_check
from arcbox_net.wire.udp cimport PROTOCOL_UDP, UDP_HEADER_BYTES

cdef enum:
    ECN_FIELD = 3  # of the type of service, and of the traffic class
    TRAFFIC_CLASS_SHIFT = 4  # of its lower half in the header's second octet


cdef bint fragment_view_read(
    fragment_view *v, const uint8_t *ip, Direction direction, const uint64_t *seed
) noexcept nogil:
    """Whether the packet at *ip*, whose header was checked, can be a part of a datagram. *seed* is of two words."""
    v.ip = ip
    v.key_rest = <uint64_t>direction << KEY_DIRECTION_SHIFT
    if ip[0] >> 4 == 4:
        return _read_ipv4(v)
    return _read_ipv6(v, seed)


cdef uint32_t fragment_header_size(const uint8_t *ip, uint32_t header_size) noexcept nogil:
    """Bytes of headers that are left of a first part's *header_size* once the datagram is whole."""
    return header_size if ip[0] >> 4 == 4 else header_size - IPV6_FRAGMENT_BYTES


cdef bint fragment_whole_headers(uint8_t *ip, uint32_t header_size, uint32_t size, bint congested) noexcept nogil:
    """Make the first part's headers at *ip* those of the datagram with its *size* bytes; False when it is too long."""
    if ip[0] >> 4 == 4:
        if header_size + size > IPV4_LENGTH_MAX:
            return False
        store_u16(ip + IPV4_TOTAL_LENGTH, header_size + size)
        store_u16(ip + IPV4_FRAGMENT, load_u16(ip + IPV4_FRAGMENT) & IPV4_DF)
        if congested:
            ip[IPV4_TOS] |= ECN_CONGESTION
        ipv4_set_checksum(ip)
        return True
    header_size -= IPV6_FRAGMENT_BYTES
    if header_size - IPV6_HEADER_BYTES + size > IPV6_PAYLOAD_MAX:
        return False
    store_u16(ip + IPV6_PAYLOAD_LENGTH, header_size - IPV6_HEADER_BYTES + size)
    _skip_fragment_header(ip, header_size)
    if congested:
        ip[1] |= ECN_CONGESTION << TRAFFIC_CLASS_SHIFT
    return True


cdef void _skip_fragment_header(uint8_t *ip, uint32_t offset) noexcept nogil:
    """Have the header ahead of the fragment header name what follows that. They were walked before."""
    cdef uint32_t field = IPV6_NEXT_HEADER, at = IPV6_HEADER_BYTES
    while at < offset:
        field = at
        at += (<uint32_t>ip[at + 1] + 1) * 8
    ip[field] = ip[offset + IPV6_FRAGMENT_NEXT_HEADER]


cdef bint _read_ipv4(fragment_view *v) noexcept nogil:
    v.header_size = <uint8_t>ipv4_header_size(v.ip)
    v.payload = v.ip + v.header_size
    v.size = ipv4_total_length(v.ip) - v.header_size
    v.offset = ipv4_fragment_offset(v.ip)
    v.last = not ipv4_more_fragments(v.ip)
    v.ecn = v.ip[IPV4_TOS] & ECN_FIELD
    v.key_addresses = <uint64_t>ipv4_destination_be(v.ip) << 32 | ipv4_source_be(v.ip)
    v.key_rest |= ipv4_identification_be(v.ip) | <uint64_t>ipv4_protocol(v.ip) << KEY_PROTOCOL_SHIFT
    v.owner_key = ipv4_source_be(v.ip)
    return ipv4_fragment_check(v.ip) and _l4_fits(v, ipv4_protocol(v.ip), v.payload)


cdef bint _read_ipv6(fragment_view *v, const uint64_t *seed) noexcept nogil:
    """The protocol is not in the key: RFC 8200 4.5 has only the first fragment say what it is."""
    cdef uint8_t protocol
    cdef uint32_t at
    cdef const uint8_t *extension
    if ipv6_upper(v.ip, &protocol, &at) != IPV6_WALK_FRAGMENT or at > HEADERS_BYTES_MAX - IPV6_FRAGMENT_BYTES:
        return False
    extension = v.ip + at
    v.header_size = <uint8_t>(at + IPV6_FRAGMENT_BYTES)
    v.payload = v.ip + v.header_size
    v.size = ipv6_total_length(v.ip) - v.header_size
    v.offset = ipv6_fragment_offset(extension)
    v.last = not ipv6_more_fragments(extension)
    v.ecn = v.ip[1] >> TRAFFIC_CLASS_SHIFT & ECN_FIELD
    v.key_addresses = siphash13(seed[0], seed[1], v.ip + IPV6_SOURCE, 2 * IPV6_ADDRESS_BYTES)
    v.key_rest |= ipv6_identification_be(extension) | <uint64_t>1 << KEY_IPV6_SHIFT
    v.owner_key = siphash13(seed[0], seed[1], v.ip + IPV6_SOURCE, IPV6_ADDRESS_BYTES // 2)
    if not ipv6_fragment_check(v.ip, extension):
        return False
    if v.offset:
        return _l4_fits(v, extension[IPV6_FRAGMENT_NEXT_HEADER], v.payload)
    return ipv6_upper_of_fragment(v.ip, &protocol, &at) == IPV6_WALK_OK and _l4_fits(v, protocol, v.ip + at)


cdef bint _l4_fits(const fragment_view *v, uint8_t protocol, const uint8_t *l4) noexcept nogil:
    """Whether the first part has the whole L4 header, at *l4*, and another has nothing of it."""
    cdef uint32_t size = v.size - <uint32_t>(l4 - v.payload)
    if v.offset:
        return protocol != PROTOCOL_TCP or v.offset >= TCP_HEADER_BYTES
    if protocol == PROTOCOL_TCP:
        return tcp_check(l4, size)
    if protocol == PROTOCOL_UDP:
        return size >= UDP_HEADER_BYTES
    if protocol == PROTOCOL_ICMP or protocol == PROTOCOL_ICMPV6:
        return size >= ICMP_HEADER_BYTES
    return True
