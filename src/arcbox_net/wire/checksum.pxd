"""The Internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo headers of TCP, UDP and ICMPv6
(RFC 9293, 768, 8200 8.1).

A sum is of 16-bit words in the order they have in memory, so no byte is swapped: `checksum_fold` of a whole
sum is stored as it is, and the fields and values of an update are those that `load_u16_be` reads.

A delta is ~m + m' of equation 3, not yet folded. Deltas of several changes add up, can be made long before they are
applied, and stay as they were by `checksum_fold`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.checksum cimport ABX_SUM_LONG, abx_sum_long, abx_sum_scalar
from arcbox_net.wire.octets cimport load_u32_be, store_u16_be, store_u32, swap_u16


cdef inline uint64_t checksum_add(uint64_t total, const uint8_t *p, size_t size) noexcept nogil:
    """*total* and the bytes at *p*; only the last part of a sum may have an odd size. At most 2^32 bytes."""
    if size >= ABX_SUM_LONG:
        return abx_sum_long(total, p, size)
    return abx_sum_scalar(total, p, size)


cdef inline uint16_t checksum_fold(uint64_t total) noexcept nogil:
    """The sum in 16 bits, not complemented."""
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total


cdef inline void checksum_store(uint8_t *p, uint64_t total) noexcept nogil:
    """Write the complement of *total*."""
    store_u16_be(p, <uint16_t>~checksum_fold(total))


cdef inline uint64_t pseudo_sum(
    const uint8_t *source, const uint8_t *destination, size_t address_size, uint8_t protocol, uint32_t size
) noexcept nogil:
    """The pseudo header of either IP version: *size* is that of the L4 header and what follows it."""
    cdef uint8_t rest[8]
    store_u32(rest, size)
    store_u32(&rest[4], protocol)
    return checksum_add(
        checksum_add(checksum_add(0, source, address_size), destination, address_size), rest, 8
    )


cdef inline uint32_t checksum_delta16(uint16_t old_be, uint16_t new_be) noexcept nogil:
    return <uint32_t>(<uint16_t>~old_be) + new_be


cdef inline uint32_t checksum_delta32(uint32_t old_be, uint32_t new_be) noexcept nogil:
    return (
        checksum_delta16(<uint16_t>old_be, <uint16_t>new_be)
        + checksum_delta16(<uint16_t>(old_be >> 16), <uint16_t>(new_be >> 16))
    )


cdef inline uint32_t checksum_delta128(const uint8_t *old, const uint8_t *new) noexcept nogil:
    """For an IPv6 address."""
    return (
        checksum_delta32(load_u32_be(old), load_u32_be(new))
        + checksum_delta32(load_u32_be(old + 4), load_u32_be(new + 4))
        + checksum_delta32(load_u32_be(old + 8), load_u32_be(new + 8))
        + checksum_delta32(load_u32_be(old + 12), load_u32_be(new + 12))
    )


cdef inline uint32_t checksum_delta_odd(uint16_t old_be, uint16_t new_be) noexcept nogil:
    """For a field that begins at an odd offset: its octets have changed places in the words that are summed."""
    return checksum_delta16(swap_u16(old_be), swap_u16(new_be))


cdef inline uint16_t checksum_apply_partial(uint16_t field_be, uint32_t delta) noexcept nogil:
    """The new field of a packet whose field holds the pseudo header's sum, not complemented: NEEDS_CSUM.

    Only changes of the pseudo header count. *delta* is below 2^31.
    """
    delta += field_be
    delta = (delta & 0xFFFF) + (delta >> 16)
    return <uint16_t>((delta & 0xFFFF) + (delta >> 16))


cdef inline uint16_t checksum_apply(uint16_t field_be, uint32_t delta) noexcept nogil:
    """RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). *delta* is below 2^31."""
    return <uint16_t>~checksum_apply_partial(<uint16_t>~field_be, delta)


cdef inline uint16_t checksum_apply_udp(uint16_t field_be, uint32_t delta) noexcept nogil:
    """RFC 768: 0 is "no checksum" and stays, so a computed 0 is sent as 0xFFFF. Without a branch."""
    cdef uint16_t updated = checksum_apply(field_be, delta)
    updated |= <uint16_t>-<int>(updated == 0)
    return updated & <uint16_t>-<int>(field_be != 0)
