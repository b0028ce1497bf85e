"""What the sender of a packet is told when it goes nowhere; icmp_refuse.pyx writes it."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.rate_limit cimport rate_limit
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame

cdef enum:
    ERRORS_PER_SECOND = 1000
    ERRORS_OUTSIDE_PER_SECOND = 500  # of these: so that nobody outside can use up what guests need
    ERRORS_GUEST_PER_SECOND = 100
    GUEST_LIMITS = 4096  # guests whose addresses differ in their last 12 bits share no limit

cdef struct icmp_answers:
    emitter *out
    uint32_t gateway_be  # who guests hear errors from; 0: from whom they tried to reach
    uint64_t limited  # errors that were not sent for the limits
    rate_limit all
    rate_limit outside
    rate_limit guests[GUEST_LIMITS]


cdef void icmp_refuse(
    icmp_answers *a, const frame *offending, Direction towards, uint8_t icmp_type, uint8_t icmp_code,
    uint32_t rest, uint64_t now_ns,
) noexcept nogil
cdef void tcp_refuse(icmp_answers *a, const frame *offending, Direction towards) noexcept nogil
