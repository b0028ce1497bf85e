"""Whether a guest may send an IPv6 packet. Theory of operation: guest_check6.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.binding cimport binding
from arcbox_net.dataplane.switch_state cimport switch_state


cdef int guest_check6(
    switch_state *s, binding *b, const uint8_t *ip, uint32_t size, uint64_t now_ns
) noexcept nogil
