"""A packet's fields, which have no alignment: as numbers, and (`_be`) as they are in memory, in network order."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


cdef inline uint16_t load_u16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((<uint32_t>p[0] << 8) | p[1])


cdef inline uint32_t load_u32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void store_u16(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value


cdef inline void store_u32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


cdef inline uint16_t load_u16_be(const uint8_t *p) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, p, 2)
    return value


cdef inline uint32_t load_u32_be(const uint8_t *p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline void store_u16_be(uint8_t *p, uint16_t value) noexcept nogil:
    memcpy(p, &value, 2)


cdef inline void store_u32_be(uint8_t *p, uint32_t value) noexcept nogil:
    memcpy(p, &value, 4)


cdef inline uint16_t order_u16(uint16_t value) noexcept nogil:
    """From a number to how the field has it in memory, or back."""
    cdef uint8_t field[2]
    store_u16(field, value)
    return load_u16_be(field)


cdef inline uint16_t swap_u16(uint16_t value) noexcept nogil:
    """The two octets the other way round."""
    return <uint16_t>(value << 8 | value >> 8)
