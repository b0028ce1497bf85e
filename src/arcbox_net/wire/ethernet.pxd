"""Ethernet header (IEEE 802.3, RFC 894). Tags (IEEE 802.1Q, 802.1ad) are told from packets, and not taken apart."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from arcbox_net.wire.octets cimport load_u16, load_u16_be, load_u32, load_u32_be, store_u16

cdef enum:
    ETHERNET_HEADER_BYTES = 14
    ETHERNET_DESTINATION = 0
    ETHERNET_SOURCE = 6
    ETHERNET_TYPE = 12
    MAC_BYTES = 6
    ETHERTYPE_IPV4 = 0x0800
    ETHERTYPE_ARP = 0x0806
    ETHERTYPE_IPV6 = 0x86DD
    ETHERTYPE_VLAN = 0x8100
    ETHERTYPE_QINQ = 0x88A8
    ETHERTYPE_QINQ_OLD = 0x9100  # of switches older than 802.1ad


cdef inline bint ethernet_check(const uint8_t *p, size_t size) noexcept nogil:
    """Whether *size* bytes hold the header."""
    return size >= ETHERNET_HEADER_BYTES


cdef inline uint16_t ethernet_type(const uint8_t *p) noexcept nogil:
    return load_u16(p + ETHERNET_TYPE)


cdef inline bint ethernet_is_vlan(const uint8_t *p) noexcept nogil:
    """Whether a tag follows instead of a packet."""
    cdef uint16_t ethertype = ethernet_type(p)
    return ethertype == ETHERTYPE_VLAN or ethertype == ETHERTYPE_QINQ or ethertype == ETHERTYPE_QINQ_OLD


cdef inline bint ethernet_is_group(const uint8_t *mac) noexcept nogil:
    """Multicast and broadcast: an address that no sender has."""
    return mac[0] & 1 != 0


cdef inline bint ethernet_is_link_control(const uint8_t *mac) noexcept nogil:
    """01:80:C2:00:00:0x (IEEE 802.1Q 8.6.3): pause frames, STP, LLDP and the like, which no bridge passes on."""
    return load_u32(mac) == 0x0180C200 and load_u16(mac + 4) & 0xFFF0 == 0


cdef inline uint64_t ethernet_mac(const uint8_t *mac) noexcept nogil:
    """The address as a number that tells it from others: its octets as they lie in memory."""
    return load_u32_be(mac) | <uint64_t>load_u16_be(mac + 4) << 32


cdef inline void ethernet_set_type(uint8_t *p, uint16_t ethertype) noexcept nogil:
    store_u16(p + ETHERNET_TYPE, ethertype)
