"""SipHash-1-3: a hash whose collisions nobody finds without its 16-byte seed. Not for signatures."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline uint64_t rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline uint64_t siphash13(uint64_t k0, uint64_t k1, const uint8_t *p, size_t size) noexcept nogil:
    cdef uint64_t v0 = k0 ^ <uint64_t>0x736F6D6570736575
    cdef uint64_t v1 = k1 ^ <uint64_t>0x646F72616E646F6D
    cdef uint64_t v2 = k0 ^ <uint64_t>0x6C7967656E657261
    cdef uint64_t v3 = k1 ^ <uint64_t>0x7465646279746573
    cdef uint64_t m
    cdef size_t left = size
    cdef int _round
    cdef bint last = False
    while not last:
        m = 0
        if left >= 8:
            memcpy(&m, p, 8)
            p += 8
            left -= 8
        else:
            memcpy(&m, p, left)
            m |= <uint64_t>(size & 0xFF) << 56
            last = True
        v3 ^= m
        v0 += v1
        v1 = rotl(v1, 13) ^ v0
        v0 = rotl(v0, 32)
        v2 += v3
        v3 = rotl(v3, 16) ^ v2
        v0 += v3
        v3 = rotl(v3, 21) ^ v0
        v2 += v1
        v1 = rotl(v1, 17) ^ v2
        v2 = rotl(v2, 32)
        v0 ^= m
    v2 ^= 0xFF
    for _round in range(3):
        v0 += v1
        v1 = rotl(v1, 13) ^ v0
        v0 = rotl(v0, 32)
        v2 += v3
        v3 = rotl(v3, 16) ^ v2
        v0 += v3
        v3 = rotl(v3, 21) ^ v0
        v2 += v1
        v1 = rotl(v1, 17) ^ v2
        v2 = rotl(v2, 32)
    return v0 ^ v1 ^ v2 ^ v3
