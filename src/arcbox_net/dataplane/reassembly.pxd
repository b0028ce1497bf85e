"""Datagrams that arrive in fragments; reassembly.pyx puts them together."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.fragment_store cimport fragment_store
from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.verdict cimport Direction, Verdict
from arcbox_net.memory.frame cimport frame

cdef enum:
    REASSEMBLY_S = 30  # RFC 791 3.2 says fifteen seconds at least
    REASSEMBLY_IPV6_S = 60  # RFC 8200 4.5

cdef struct reassembly:
    fragment_store store
    uint8_t *whole  # the datagram that was completed last
    uint32_t largest  # bytes of the largest packet that brought a part of it
    uint64_t joined  # datagrams
    uint64_t refused  # datagrams whose fragments cannot be of one
    uint64_t timeouts  # datagrams


cdef bint reassembly_init(reassembly *r, const uint64_t *seed) noexcept nogil
cdef void reassembly_free(reassembly *r) noexcept nogil
cdef Verdict reassembly_take(
    reassembly *r, icmp_answers *answers, const frame *f, Direction direction, uint64_t now_ns, frame *whole
) noexcept nogil
cdef uint32_t reassembly_expire(
    reassembly *r, icmp_answers *answers, uint64_t now_ns, uint32_t budget
) noexcept nogil
