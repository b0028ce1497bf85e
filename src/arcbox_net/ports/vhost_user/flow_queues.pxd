"""On which pair of queues a flow is answered: where the guest last sent on it, so that one CPU of the guest has it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.bits cimport abx_multiply_fold_u64
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.ports.vhost_user.vhost_port cimport FLOWS_MAX, vhost_port
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ethernet_type
from arcbox_net.wire.ipv4 cimport IPV4_PROTOCOL, IPV4_SOURCE, ipv4_header_size
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES, IPV6_DESTINATION, IPV6_HEADER_BYTES, IPV6_NEXT_HEADER, IPV6_SOURCE
from arcbox_net.wire.octets cimport load_u16_be, load_u32_be

cdef enum:
    ADDRESSES_BYTES = 8
    PORTS_BYTES = 4
    TCP = 6
    UDP = 17
    ODD_NUMBER = 0x9E3779B97F4A7C15


cdef inline uint32_t flow_slot(const port_frame *f) noexcept nogil:
    """A number below FLOWS_MAX, the same for both directions of a flow: it adds what belongs to source and destination.

    Who sends flows of one slot slows itself down, so no secret is needed.
    """
    cdef const uint8_t *ip = f.head.data + ETHERNET_HEADER_BYTES
    cdef uint32_t size = f.head.size - ETHERNET_HEADER_BYTES
    cdef uint32_t protocol, l4, i
    cdef uint64_t addresses, ports = 0
    if ethernet_type(f.head.data) == ETHERTYPE_IPV4 and size >= IPV4_SOURCE + ADDRESSES_BYTES:
        protocol = ip[IPV4_PROTOCOL]
        l4 = ipv4_header_size(ip)
        addresses = <uint64_t>load_u32_be(ip + IPV4_SOURCE) + load_u32_be(ip + IPV4_SOURCE + 4)
    elif ethernet_type(f.head.data) == ETHERTYPE_IPV6 and size >= IPV6_HEADER_BYTES:
        protocol = ip[IPV6_NEXT_HEADER]
        l4 = IPV6_HEADER_BYTES
        addresses = 0
        for i in range(0, <uint32_t>IPV6_ADDRESS_BYTES, 4):
            addresses += <uint64_t>load_u32_be(ip + IPV6_SOURCE + i) + load_u32_be(ip + IPV6_DESTINATION + i)
    else:
        return 0
    if (protocol == TCP or protocol == UDP) and size >= l4 + PORTS_BYTES:
        ports = <uint64_t>load_u16_be(ip + l4) + load_u16_be(ip + l4 + 2)
    return <uint32_t>(abx_multiply_fold_u64(addresses << 20 ^ ports ^ <uint64_t>protocol << 56, ODD_NUMBER) % FLOWS_MAX)


cdef inline void flow_seen(vhost_port *p, const port_frame *f, uint32_t pair) noexcept nogil:
    if p.pairs > 1:
        p.flow_pairs[flow_slot(f)] = <uint8_t>pair


cdef inline uint32_t flow_pair(const vhost_port *p, const port_frame *f) noexcept nogil:
    """The pair for a frame to the guest; flows that were never seen are spread over all."""
    return p.flow_pairs[flow_slot(f)] if p.pairs > 1 else 0
