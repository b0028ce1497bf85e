"""What the switches of one network's workers tell each other: that a port was heard from an address."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    PEERS_MAX = 15  # switches that one switch tells
    NOTICE_BYTES = 32
    NOTICES_CAPACITY = 8192  # of the ring from one switch to one other: a full MAC table, twice
    TOLD_BITS = 5  # an address in use is told anew in each span of 2^TOLD_BITS seconds

cdef enum notice_kind:
    NOTICE_MAC
    NOTICE_OWNER  # an IPv6 address

cdef struct notice:
    uint8_t address[IPV6_ADDRESS_BYTES]
    uint16_t port
    uint16_t kind
    uint32_t heard_s  # by the switch that tells
    uint32_t gap[2]


cdef inline bint notice_due(uint32_t heard_s, uint32_t now_s) noexcept nogil:
    """Whether an address last heard at *heard_s* has yet to be told in this span."""
    return heard_s >> TOLD_BITS < now_s >> TOLD_BITS


cdef inline uint32_t notice_lasts_s(const notice *said) noexcept nogil:
    """Until when its address may be in use, of which no more is told in that span."""
    return said.heard_s | ((1 << TOLD_BITS) - 1)


cdef inline bint is_unheard(uint32_t heard_s, uint32_t now_s, uint32_t age_s) noexcept nogil:
    """Whether an address was not used for *age_s*. *heard_s* may be ahead of *now_s*, by what a notice lasts."""
    return now_s >= heard_s and now_s - heard_s >= age_s
