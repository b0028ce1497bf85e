"""RST and ICMP errors to guests: each answers one packet, and is built from it and sent at once.

A packet brings at most one answer. ICMP errors are limited to ANSWERS_PER_SECOND for a guest (RFC 4443 2.4 (f));
a RST is no larger than the segment it answers and needs no limit.
"""

from libc.errno cimport EACCES, EAFNOSUPPORT, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, EPERM, ETIMEDOUT
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.abi.socket cimport iovec
from arcbox_net.relay.door cimport (
    DROP_ANSWER, ERRORS_SENT, IPV4_DOOR, RESETS_SENT, door_count, door_write,
)
from arcbox_net.relay.flow cimport ADDRESS_BYTES
from arcbox_net.wire.checksum cimport checksum_add, checksum_store, pseudo_sum
from arcbox_net.wire.icmp cimport (
    ICMP_CHECKSUM, ICMP_ERROR_BYTES_MAX, ICMP_HEADER_BYTES, ICMP_UNREACHABLE, ICMPV6_ERROR_BYTES_MAX,
    ICMPV6_UNREACHABLE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, icmp_write_error,
)
from arcbox_net.wire.ipv4 cimport (
    IPV4_DESTINATION, IPV4_HEADER_BYTES, IPV4_SOURCE, ipv4_set_checksum, ipv4_write,
)
from arcbox_net.wire.ipv6 cimport IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_SOURCE, ipv6_write
from arcbox_net.wire.tcp cimport (
    PROTOCOL_TCP, TCP_CHECKSUM, TCP_HEADER_BYTES, TCP_RST, tcp_flags, tcp_write_reset,
)
from arcbox_net.wire.virtio_net cimport virtio_net_header

cdef enum:
    ANSWERS_PER_SECOND = 100
    HEADERS_BYTES = 64  # the largest: IPv6 and TCP

# By `unreachable`: RFC 792 and 1812 5.2.7.1; RFC 4443 3.1.
cdef uint8_t[4] CODES4 = [0, 1, 3, 13]
cdef uint8_t[4] CODES6 = [0, 3, 4, 1]


cdef void answer_reset(relay_door *door, const door_packet *packet) noexcept nogil:
    """RFC 9293 3.10.7.1: what a closed port says to this segment. Nothing says anything to a RST."""
    cdef uint8_t headers[HEADERS_BYTES]
    cdef uint8_t *tcp
    if tcp_flags(packet.l4) & TCP_RST:
        return
    tcp = _write_ip(headers, packet, PROTOCOL_TCP, TCP_HEADER_BYTES, packet.dst)
    tcp_write_reset(tcp, packet.l4, packet.payload_size)
    _send(door, headers, tcp, TCP_HEADER_BYTES, NULL, 0, PROTOCOL_TCP, TCP_CHECKSUM, RESETS_SENT)


cdef void answer_unreachable(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, unreachable what
) noexcept nogil:
    """Destination unreachable, for the reason that *what* names."""
    cdef bint v4 = packet.version == IPV4_DOOR
    cdef const uint8_t *source = &packet.dst[0]
    if what != UNREACHABLE_PORT and door.has_gateway[packet.version]:
        source = &door.gateways[packet.version][0]
    answer_error(
        w, door, guest, packet, source, ICMP_UNREACHABLE if v4 else ICMPV6_UNREACHABLE,
        CODES4[<int>what] if v4 else CODES6[<int>what], 0,
    )


cdef void answer_error(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, const uint8_t *source,
    uint8_t icmp_type, uint8_t icmp_code, uint32_t info,
) noexcept nogil:
    """An ICMP error with as much of the packet as fits: the guest finds its socket by that."""
    cdef uint8_t headers[HEADERS_BYTES]
    cdef uint8_t *icmp
    cdef bint v4 = packet.version == IPV4_DOOR
    cdef uint32_t overhead = ICMP_HEADER_BYTES + (IPV4_HEADER_BYTES if v4 else IPV6_HEADER_BYTES)
    cdef uint32_t quote = <uint32_t>(ICMP_ERROR_BYTES_MAX if v4 else ICMPV6_ERROR_BYTES_MAX) - overhead
    if w.now_ms - guest.answers_ms >= 1000:
        guest.answers_ms = w.now_ms
        guest.answers = 0
    if guest.answers >= ANSWERS_PER_SECOND:
        door_count(door, DROP_ANSWER)
        return
    guest.answers += 1
    quote = min(quote, packet.ip_size)
    icmp = _write_ip(
        headers, packet, PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6, ICMP_HEADER_BYTES + quote, source
    )
    icmp_write_error(icmp, icmp_type, icmp_code, info)
    _send(
        door, headers, icmp, ICMP_HEADER_BYTES, packet.ip, quote,
        PROTOCOL_ICMP if v4 else PROTOCOL_ICMPV6, ICMP_CHECKSUM, ERRORS_SENT,
    )


cdef void answer_dial(
    relay_worker *w, relay_door *door, relay_guest *guest, const door_packet *packet, int failure
) noexcept nogil:
    """What a SYN is told of a dial that failed with the errno *failure*: what the guest would have heard itself."""
    if failure == ETIMEDOUT:
        return
    if failure in (EHOSTUNREACH, EHOSTDOWN):
        answer_unreachable(w, door, guest, packet, UNREACHABLE_HOST)
    elif failure in (ENETUNREACH, ENETDOWN, EAFNOSUPPORT):
        answer_unreachable(w, door, guest, packet, UNREACHABLE_NETWORK)
    elif failure in (EACCES, EPERM):
        answer_unreachable(w, door, guest, packet, UNREACHABLE_PROHIBITED)
    else:
        answer_reset(door, packet)


cdef uint8_t *_write_ip(
    uint8_t *headers, const door_packet *packet, uint8_t protocol, uint32_t size, const uint8_t *source
) noexcept nogil:
    """An IP header from *source* back to the guest; where the next one goes."""
    if packet.version == IPV4_DOOR:
        ipv4_write(headers, protocol, size)
        memcpy(headers + IPV4_SOURCE, source + 12, 4)
        memcpy(headers + IPV4_DESTINATION, packet.src + 12, 4)
        ipv4_set_checksum(headers)
        return headers + IPV4_HEADER_BYTES
    ipv6_write(headers, protocol, size)
    memcpy(headers + IPV6_SOURCE, source, ADDRESS_BYTES)
    memcpy(headers + IPV6_DESTINATION, packet.src, ADDRESS_BYTES)
    return headers + IPV6_HEADER_BYTES


cdef void _send(
    relay_door *door, uint8_t *headers, uint8_t *l4, uint32_t l4_size, uint8_t *rest, uint32_t rest_size,
    uint8_t protocol, uint32_t checksum_field, int counter
) noexcept nogil:
    cdef virtio_net_header plain
    cdef iovec vectors[3]
    cdef uint64_t total = 0
    memset(&plain, 0, sizeof(plain))
    if protocol == PROTOCOL_TCP or protocol == PROTOCOL_ICMPV6:
        total = _pseudo(headers, protocol, l4_size + rest_size)
    total = checksum_add(total, l4, l4_size)
    total = checksum_add(total, rest, rest_size)
    checksum_store(l4 + checksum_field, total)
    vectors[1].iov_base = headers
    vectors[1].iov_len = <size_t>(l4 - headers) + l4_size
    vectors[2].iov_base = rest
    vectors[2].iov_len = rest_size
    if door_write(door, &plain, vectors, 3) == 0:
        door_count(door, counter)


cdef uint64_t _pseudo(const uint8_t *ip, uint8_t protocol, uint32_t size) noexcept nogil:
    if ip[0] >> 4 == 4:
        return pseudo_sum(ip + IPV4_SOURCE, ip + IPV4_DESTINATION, 4, protocol, size)
    return pseudo_sum(ip + IPV6_SOURCE, ip + IPV6_DESTINATION, ADDRESS_BYTES, protocol, size)
