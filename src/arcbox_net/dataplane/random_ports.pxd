"""Numbers that nobody outside can foresee (RFC 6056, 7857 §10): SipHash of a counter, under a secret key."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.wire.siphash cimport siphash13

cdef struct random_source:
    uint64_t key[2]  # from the system's generator; the caller's to provide
    uint64_t counter
    uint32_t spare  # the half of the last hash that was not used
    bint has_spare


cdef inline uint32_t random_u32(random_source *source) noexcept nogil:
    cdef uint64_t number
    if source.has_spare:
        source.has_spare = False
        return source.spare
    number = siphash13(source.key[0], source.key[1], <const uint8_t *>&source.counter, sizeof(source.counter))
    source.counter += 1
    source.spare = <uint32_t>(number >> 32)
    source.has_spare = True
    return <uint32_t>number


cdef inline uint32_t random_below(random_source *source, uint32_t limit) noexcept nogil:
    """One of 0 … limit - 1; *limit* is at most 65536, so none is likelier than another by more than 1 / 65536."""
    return <uint32_t>((<uint64_t>random_u32(source) * limit) >> 32)
