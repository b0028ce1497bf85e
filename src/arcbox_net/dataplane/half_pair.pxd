"""The two halves of a flow from its endpoints: as packets arrive, and as they leave."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from arcbox_net.dataplane.address_table cimport address_is_interned, address_sum_be, address_table
from arcbox_net.dataplane.flow cimport KEY_IPV6_SHIFT, half_flow, key_direction, key_protocol
from arcbox_net.dataplane.packet cimport packet_key
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND, Direction
from arcbox_net.wire.checksum cimport checksum_delta16, checksum_fold
from arcbox_net.wire.icmp cimport PROTOCOL_ICMP

cdef struct endpoint:
    uint32_t ip_be
    uint16_t number_be


cdef inline uint64_t pair_addresses(endpoint source, endpoint destination) noexcept nogil:
    """As they lie in a header."""
    return <uint64_t>destination.ip_be << 32 | source.ip_be


cdef inline uint32_t pair_numbers(endpoint source, endpoint destination) noexcept nogil:
    return <uint32_t>destination.number_be << 16 | source.number_be


cdef inline endpoint pair_source(uint64_t addresses, uint64_t rest) noexcept nogil:
    cdef endpoint found
    found.ip_be = <uint32_t>addresses
    found.number_be = <uint16_t>rest
    return found


cdef inline endpoint pair_destination(uint64_t addresses, uint64_t rest) noexcept nogil:
    cdef endpoint found
    found.ip_be = <uint32_t>(addresses >> 32)
    found.number_be = <uint16_t>(rest >> 16)
    return found


cdef inline uint64_t pair_key(
    endpoint source, endpoint destination, uint8_t protocol, Direction direction
) noexcept nogil:
    """The rest of the key of packets from *source* to *destination*."""
    cdef uint64_t family = <uint64_t>address_is_interned(source.ip_be) << KEY_IPV6_SHIFT
    return packet_key(pair_numbers(source, destination), protocol, direction) | family


cdef inline uint32_t _address_delta(const address_table *addresses, uint32_t old_be, uint32_t new_be) noexcept nogil:
    return checksum_delta16(address_sum_be(addresses, old_be), address_sum_be(addresses, new_be))


cdef inline void half_make(
    const address_table *addresses, half_flow *half, uint8_t protocol, Direction direction, uint8_t flags,
    endpoint source, endpoint destination, endpoint new_source, endpoint new_destination,
) noexcept nogil:
    """Packets from *source* to *destination* become ones from *new_source* to *new_destination*."""
    cdef uint32_t delta = (
        _address_delta(addresses, source.ip_be, new_source.ip_be)
        + _address_delta(addresses, destination.ip_be, new_destination.ip_be)
    )
    cdef uint32_t numbers = (
        checksum_delta16(source.number_be, new_source.number_be)
        + checksum_delta16(destination.number_be, new_destination.number_be)
    )
    cdef bint bare
    memset(half, 0, sizeof(half_flow))
    half.key_addresses = pair_addresses(source, destination)
    half.key_rest = pair_key(source, destination, protocol, direction)
    half.new_addresses = pair_addresses(new_source, new_destination)
    half.new_ports = pair_numbers(new_source, new_destination)
    half.address_delta = checksum_fold(delta)
    # ICMP has no pseudo header, unlike ICMPv6: only the identifier is in its sum.
    bare = protocol == PROTOCOL_ICMP and not address_is_interned(source.ip_be)
    half.l4_delta = checksum_fold(numbers if bare else delta + numbers)
    half.flags = flags


cdef inline Direction half_direction(const half_flow *half) noexcept nogil:
    """The side that its packets come from."""
    return INBOUND if key_direction(half.key_rest) else OUTBOUND


cdef inline uint8_t half_protocol(const half_flow *half) noexcept nogil:
    return key_protocol(half.key_rest)
