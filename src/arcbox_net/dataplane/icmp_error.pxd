"""ICMP errors about translated packets; icmp_error.pyx translates them."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.conntrack cimport conntrack
from arcbox_net.dataplane.verdict cimport Direction, Verdict
from arcbox_net.memory.frame cimport frame


cdef Verdict icmp_error_translate(conntrack *flows, frame *f, Direction direction, uint32_t mtu) noexcept nogil
