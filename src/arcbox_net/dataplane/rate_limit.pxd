"""Token buckets of eight bytes: how many answers may be sent, in all and to one guest.

A bucket holds the time at which it would be full again (the generic cell rate algorithm). Full, it is worth a quarter
of what a second may bring, and the other three come back within a second: so no second brings more than the rate.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    SECOND_NS = 1000000000

cdef struct rate_limit:
    uint64_t full_ns

cdef struct rate:
    uint64_t interval_ns  # in which one more is allowed
    uint64_t burst_ns  # intervals that a full bucket is worth, less one


cdef inline rate rate_of(uint32_t per_second) noexcept nogil:
    """At most *per_second* in any second, a quarter of them at once."""
    cdef rate r
    cdef uint32_t burst = per_second // 4
    r.interval_ns = <uint64_t>SECOND_NS // (per_second - burst)
    r.burst_ns = (burst - 1) * r.interval_ns
    return r


cdef inline bint rate_allows(const rate_limit *limit, const rate *r, uint64_t now_ns) noexcept nogil:
    return limit.full_ns <= now_ns + r.burst_ns


cdef inline void rate_take(rate_limit *limit, const rate *r, uint64_t now_ns) noexcept nogil:
    """Take one that `rate_allows` said there is."""
    limit.full_ns = max(limit.full_ns, now_ns) + r.interval_ns
