"""Who may be sent how many ICMP errors, of either IP version, and from which address."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.rate_limit cimport rate, rate_allows, rate_limit, rate_of, rate_take
from arcbox_net.dataplane.verdict cimport INBOUND, Direction
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    ERRORS_PER_SECOND = 1000
    ERRORS_OUTSIDE_PER_SECOND = 500  # of these: so that nobody outside can use up what guests need
    ERRORS_GUEST_PER_SECOND = 100
    GUEST_LIMITS = 4096  # guests whose addresses differ in their last 12 bits share no limit

cdef struct icmp_answers:
    emitter *out
    uint32_t gateway_be  # who guests hear errors from; 0: from whom they tried to reach
    uint8_t gateway6[IPV6_ADDRESS_BYTES]  # the same for IPv6
    uint64_t limited  # errors that were not sent for the limits
    rate_limit all
    rate_limit outside
    rate_limit guests[GUEST_LIMITS]


cdef inline bint icmp_within_limits(
    icmp_answers *a, uint32_t sender, Direction towards, uint64_t now_ns
) noexcept nogil:
    """Whether an error may be sent to *sender*, by the last four bytes of the address; counted if so."""
    cdef rate all_rate = rate_of(ERRORS_PER_SECOND)
    cdef rate own_rate
    cdef rate_limit *own
    if towards == INBOUND:
        own = &a.guests[sender % GUEST_LIMITS]
        own_rate = rate_of(ERRORS_GUEST_PER_SECOND)
    else:
        own = &a.outside
        own_rate = rate_of(ERRORS_OUTSIDE_PER_SECOND)
    if not rate_allows(own, &own_rate, now_ns) or not rate_allows(&a.all, &all_rate, now_ns):
        a.limited += 1
        return False
    rate_take(own, &own_rate, now_ns)
    rate_take(&a.all, &all_rate, now_ns)
    return True
