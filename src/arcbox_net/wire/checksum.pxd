"""The Internet checksum (RFC 1071) and the pseudo headers of TCP, UDP and ICMPv6 (RFC 9293, 768, 8200 8.1).

A sum is of 16-bit words in the order they have in memory, so no byte is swapped: `checksum_fold` of a whole
sum is stored as it is.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from arcbox_net.wire.octets cimport store_u32


cdef inline uint64_t checksum_add(uint64_t total, const uint8_t *p, size_t size) noexcept nogil:
    """*total* and the bytes at *p*; only the last part of a sum may have an odd size. At most 2^32 bytes."""
    cdef uint32_t word
    cdef uint16_t half
    while size >= 4:
        memcpy(&word, p, 4)
        total += word
        p += 4
        size -= 4
    if size >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        size -= 2
    if size:
        half = 0
        memcpy(&half, p, 1)
        total += half
    return total


cdef inline uint16_t checksum_fold(uint64_t total) noexcept nogil:
    """The sum in 16 bits, not complemented."""
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total


cdef inline void checksum_store(uint8_t *p, uint64_t total) noexcept nogil:
    """Write the complement of *total*."""
    cdef uint16_t folded = <uint16_t>~checksum_fold(total)
    memcpy(p, &folded, 2)


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
