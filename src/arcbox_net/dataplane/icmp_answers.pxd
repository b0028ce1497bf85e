"""Who may be sent how many ICMP errors, of either IP version, and from which address."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.machine cimport machine_of, machine_rule
from arcbox_net.dataplane.rate_limit cimport rate, rate_allows, rate_limit, rate_of, rate_take
from arcbox_net.dataplane.verdict cimport INBOUND, Direction
from arcbox_net.memory.frame cimport frame
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES
from arcbox_net.wire.siphash cimport siphash13

cdef enum:
    ERRORS_PER_SECOND = 1000
    ERRORS_OUTSIDE_PER_SECOND = 500  # of these: so that nobody outside can use up what guests need
    ERRORS_GUEST_PER_SECOND = 100
    GUEST_LIMITS = 4096
    LIMIT_WAYS = 4  # limits one of which is a guest's: only if more guests are told much at the same time they share

cdef struct guest_limit:
    uint64_t who  # a hash of a machine's key
    rate_limit limit

cdef struct icmp_answers:
    emitter *out
    uint32_t gateway_be  # who guests hear errors from; 0: from whom they tried to reach
    uint8_t gateway6[IPV6_ADDRESS_BYTES]  # the same for IPv6
    machine_rule machines
    uint64_t limited  # errors that were not sent for the limits
    rate_limit all
    rate_limit outside
    guest_limit guests[GUEST_LIMITS]


cdef inline bint icmp_within_limits(
    icmp_answers *a, const frame *offending, Direction towards, uint64_t now_ns
) noexcept nogil:
    """Whether an error may be sent to the sender of *offending*; counted if so."""
    cdef rate all_rate = rate_of(ERRORS_PER_SECOND)
    cdef rate own_rate
    cdef rate_limit *own
    cdef uint64_t machine
    if towards == INBOUND:
        machine = machine_of(&a.machines, offending)
        own = _limit_of(a, siphash13(a.machines.seed[0], a.machines.seed[1], <uint8_t *>&machine, 8), now_ns)
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


cdef inline rate_limit *_limit_of(icmp_answers *a, uint64_t who, uint64_t now_ns) noexcept nogil:
    """A limit of the guest's own: of one that was told nothing for a while it is like new, and anybody's."""
    cdef guest_limit *limits = &a.guests[who % (GUEST_LIMITS // LIMIT_WAYS) * LIMIT_WAYS]
    cdef uint32_t i
    for i in range(<uint32_t>LIMIT_WAYS):
        if limits[i].who == who:
            return &limits[i].limit
    for i in range(<uint32_t>LIMIT_WAYS):
        if limits[i].limit.full_ns <= now_ns:
            limits[i].who = who
            return &limits[i].limit
    return &limits[who >> 62].limit
