"""A flow: two half flows, one for each way its packets go, in two neighbouring cache lines.

Half `2 * f` and half `2 * f + 1` belong to flow `f`: the other way of half `h` is `h ^ 1`. The even half is the
way of the packet that opened the flow. A half is found by its packets' addresses and L4 numbers as they arrive, and
holds all it takes to rewrite them: the new ones, and what they change in the checksums.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    FLOW_NONE = 0xFFFFFFFF
    HALF_NONE = 0xFFFFFFFF

    # Bits of `half_flow.key_rest` above the L4 numbers.
    KEY_PROTOCOL_SHIFT = 32
    KEY_DIRECTION_SHIFT = 40  # where its packets come from: OUTBOUND (a guest) or INBOUND
    KEY_IPV6_SHIFT = 41  # the addresses are numbers of interned IPv6 addresses
    KEY_VALID_SHIFT = 63

    # `half_flow.flags`
    HALF_HAIRPIN = 1  # its packets come from a guest and go to one
    HALF_ATTENTION = 2  # every packet takes the slow path: the flow is not yet the guest's own doing

    # `half_flow.tcp`: what packets of this way have shown
    TCP_SEEN_SYN = 1
    TCP_SEEN_ACK = 2  # acknowledged the other way's SYN
    TCP_SEEN_FIN = 4
    TCP_SEEN_RST = 8
    TCP_SEEN_SCALE = 16  # offered window scaling in its SYN


cdef struct half_flow:
    uint64_t key_addresses  # source and destination as they lie in the header: one load of 8 bytes
    uint64_t key_rest  # source and destination port as they lie in the header (low 32 bits), protocol, direction
    uint64_t new_addresses
    uint32_t new_ports
    uint16_t address_delta  # RFC 1624: what the new addresses add to a sum that holds them
    uint16_t l4_delta  # the same for a sum that holds addresses and ports
    uint32_t last_seen_s
    uint32_t ack_next  # TCP: the last acknowledgment number that this way sent
    uint64_t bytes  # of IP packets
    uint64_t packets
    uint32_t window_end  # TCP: first sequence number beyond the window that this way offered
    uint8_t tcp
    uint8_t flags
    uint8_t window_shift
    uint8_t spare


cdef struct flow_cold:
    uint32_t timer_next  # in the same slot of the timer wheel; of a free flow, the next free one
    uint32_t timer_previous  # FLOW_NONE: the flow is free
    uint32_t mapping
    uint32_t created_s


cdef inline uint8_t key_protocol(uint64_t key_rest) noexcept nogil:
    return <uint8_t>(key_rest >> KEY_PROTOCOL_SHIFT)


cdef inline uint32_t key_direction(uint64_t key_rest) noexcept nogil:
    return <uint32_t>(key_rest >> KEY_DIRECTION_SHIFT) & 1


cdef inline void half_count(half_flow *half, uint32_t size) noexcept nogil:
    """One IP packet more, of *size* bytes."""
    half.packets += 1
    half.bytes += size
