"""The SYN of a guest, kept while its destination is dialled: its headers, as they came and will go back."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from arcbox_net.relay.door cimport IPV4_DOOR, door_packet
from arcbox_net.relay.flow cimport ADDRESS_BYTES, SYN_FRAME_BYTES, gate_syn
from arcbox_net.wire.checksum cimport checksum_add, checksum_store, pseudo_sum
from arcbox_net.wire.ipv4 cimport IPV4_TOTAL_LENGTH, ipv4_set_checksum
from arcbox_net.wire.ipv6 cimport IPV6_HEADER_BYTES, IPV6_PAYLOAD_LENGTH
from arcbox_net.wire.octets cimport load_u32, store_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP, TCP_CHECKSUM, TCP_SEQUENCE, tcp_header_size
from arcbox_net.wire.virtio_net cimport VIRTIO_NET_HEADER_BYTES


cdef inline bint syn_fits(const door_packet *packet) noexcept nogil:
    return packet.payload - <const uint8_t *>packet.virtio <= SYN_FRAME_BYTES


cdef inline bint syn_keep(gate_syn *syn, const door_packet *packet) noexcept nogil:
    """Keep the SYN's headers. Data in it is left out, as a peer may do (RFC 7413 1): it will be sent again."""
    cdef uint8_t *ip = syn.frame + VIRTIO_NET_HEADER_BYTES
    cdef uint8_t *tcp
    cdef uint32_t tcp_size = tcp_header_size(packet.l4)
    cdef size_t address_size = 4 if packet.version == IPV4_DOOR else ADDRESS_BYTES
    if not syn_fits(packet):
        return False
    syn.isn = load_u32(packet.l4 + TCP_SEQUENCE)
    syn.size = <uint32_t>(packet.payload - <const uint8_t *>packet.virtio)
    memcpy(syn.frame, packet.virtio, syn.size)
    if packet.payload_size == 0:
        return True
    memset(syn.frame, 0, VIRTIO_NET_HEADER_BYTES)
    if packet.version == IPV4_DOOR:
        store_u16(ip + IPV4_TOTAL_LENGTH, packet.ip_size - packet.payload_size)
        ipv4_set_checksum(ip)
    else:
        store_u16(ip + IPV6_PAYLOAD_LENGTH, packet.ip_size - packet.payload_size - IPV6_HEADER_BYTES)
    tcp = ip + (packet.l4 - packet.ip)
    store_u16(tcp + TCP_CHECKSUM, 0)
    checksum_store(
        tcp + TCP_CHECKSUM,
        checksum_add(
            pseudo_sum(
                packet.src + ADDRESS_BYTES - address_size, packet.dst + ADDRESS_BYTES - address_size,
                address_size, PROTOCOL_TCP, tcp_size,
            ),
            tcp, tcp_size,
        ),
    )
    return True
