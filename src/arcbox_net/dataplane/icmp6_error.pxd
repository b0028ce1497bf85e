"""ICMPv6 errors about translated packets; icmp6_error.pyx translates them."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.address_table cimport address_table
from arcbox_net.dataplane.conntrack cimport conntrack
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.verdict cimport Verdict


cdef Verdict icmp6_error_translate(
    conntrack *flows, const address_table *addresses, packet *found, uint32_t mtu
) noexcept nogil
