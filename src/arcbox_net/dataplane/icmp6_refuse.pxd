"""What the sender of an IPv6 packet is told when it goes nowhere; icmp_refuse.pyx's are the callers."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame


cdef void icmp6_refuse(
    icmp_answers *a, const frame *offending, Direction towards, uint8_t icmp_type, uint8_t icmp_code,
    uint32_t rest, uint64_t now_ns,
) noexcept nogil
cdef void tcp6_refuse(icmp_answers *a, const frame *offending, Direction towards) noexcept nogil
