"""ARP for IPv4 over Ethernet (RFC 826). After `arp_check` every getter is within the bytes that were checked."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.ethernet cimport ETHERTYPE_IPV4, MAC_BYTES
from arcbox_net.wire.octets cimport load_u16, load_u32_be

cdef enum:
    ARP_BYTES = 28
    ARP_HARDWARE_TYPE = 0
    ARP_PROTOCOL_TYPE = 2
    ARP_HARDWARE_SIZE = 4
    ARP_PROTOCOL_SIZE = 5
    ARP_OPERATION = 6
    ARP_SENDER_MAC = 8
    ARP_SENDER_IP = 14
    ARP_TARGET_MAC = 18
    ARP_TARGET_IP = 24
    ARP_ETHERNET = 1
    ARP_REQUEST = 1
    ARP_REPLY = 2


cdef inline uint16_t arp_operation(const uint8_t *p) noexcept nogil:
    return load_u16(p + ARP_OPERATION)


cdef inline bint arp_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold a request or a reply about an IPv4 address on Ethernet."""
    return (
        size >= ARP_BYTES
        and load_u16(p + ARP_HARDWARE_TYPE) == ARP_ETHERNET
        and load_u16(p + ARP_PROTOCOL_TYPE) == ETHERTYPE_IPV4
        and p[ARP_HARDWARE_SIZE] == MAC_BYTES
        and p[ARP_PROTOCOL_SIZE] == 4
        and ARP_REQUEST <= arp_operation(p) <= ARP_REPLY
    )


cdef inline uint32_t arp_sender_be(const uint8_t *p) noexcept nogil:
    return load_u32_be(p + ARP_SENDER_IP)


cdef inline uint32_t arp_target_be(const uint8_t *p) noexcept nogil:
    return load_u32_be(p + ARP_TARGET_IP)
