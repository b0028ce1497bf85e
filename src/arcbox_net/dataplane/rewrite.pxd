"""A packet made that of the other side, in place: addresses, L4 numbers, TTL, and both checksums by what changed."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.dataplane.flow cimport half_flow
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.wire.checksum cimport checksum_apply, checksum_apply_partial
from arcbox_net.wire.icmp cimport ICMP_CHECKSUM, ICMP_IDENTIFIER
from arcbox_net.wire.ipv4 cimport IPV4_SOURCE, ipv4_decrement_ttl
from arcbox_net.wire.octets cimport load_u16_be, store_u16_be
from arcbox_net.wire.tcp cimport TCP_CHECKSUM
from arcbox_net.wire.udp cimport UDP_CHECKSUM


cdef inline void rewrite_addresses(packet *found, const half_flow *half) noexcept nogil:
    memcpy(found.ip + IPV4_SOURCE, &half.new_addresses, 8)
    ipv4_decrement_ttl(found.ip, half.address_delta)  # one hop less (RFC 1812 5.3.1)


cdef inline void rewrite_flow(packet *found, const half_flow *half) noexcept nogil:
    """TCP or UDP. Branches on the protocol would be mispredicted: traffic mixes them."""
    cdef uint32_t udp = found.tcp ^ 1
    cdef uint8_t *field = found.l4 + TCP_CHECKSUM - udp * (TCP_CHECKSUM - UDP_CHECKSUM)
    cdef uint16_t old_be = load_u16_be(field), new_be, none
    rewrite_addresses(found, half)
    memcpy(found.l4, &half.new_ports, 4)
    if found.partial:
        store_u16_be(field, checksum_apply_partial(old_be, half.address_delta))
        return
    new_be = checksum_apply(old_be, half.l4_delta)
    # RFC 768: 0 is "no checksum" and stays, so a computed 0 is sent as 0xFFFF.
    new_be |= <uint16_t>-<int>(udp & (new_be == 0))
    none = <uint16_t>-<int>(udp & (old_be == 0))
    store_u16_be(field, new_be & ~none)


cdef inline void rewrite_query(packet *found, const half_flow *half) noexcept nogil:
    """An ICMP echo. One of the flow's two numbers is the identifier, the other is 0."""
    cdef uint16_t identifier_be = <uint16_t>(half.new_ports | half.new_ports >> 16)
    rewrite_addresses(found, half)
    store_u16_be(found.l4 + ICMP_IDENTIFIER, identifier_be)
    store_u16_be(
        found.l4 + ICMP_CHECKSUM, checksum_apply(load_u16_be(found.l4 + ICMP_CHECKSUM), half.l4_delta)
    )
