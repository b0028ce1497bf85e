"""All that one NAT engine is: what it was told, its tables, its counters. One thread at a time works on it.

`nat.pyx` moves bursts through it, `engine.pyx` makes and frees it for Python.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport address_table
from arcbox_net.dataplane.conntrack cimport conntrack
from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.fragment cimport fragment_ids
from arcbox_net.dataplane.guests cimport EXTERNALS_MAX
from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.machine cimport machine_rule
from arcbox_net.dataplane.mapping cimport mapping_table
from arcbox_net.dataplane.reassembly cimport reassembly
from arcbox_net.dataplane.unsolicited cimport unsolicited_table
from arcbox_net.dataplane.verdict cimport VERDICTS
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    UNTRANSLATED_MAX = 64

cdef struct nat_prefix6:  # as addresses lie in a header
    uint64_t address[2]
    uint64_t mask[2]

cdef struct nat_prefix:
    uint32_t address_be
    uint32_t mask_be

# What a change of the configuration replaces between two bursts.
cdef struct nat_settings:
    nat_prefix inside
    uint32_t gateway_be  # the engine's own address towards guests: the source of answers to them
    bint has_ipv6  # without, IPv6 frames are of an unknown protocol
    nat_prefix6 inside6
    uint8_t gateway6[IPV6_ADDRESS_BYTES]
    uint32_t external_count
    uint32_t externals_be[EXTERNALS_MAX]
    uint32_t untranslated_count
    nat_prefix untranslated[UNTRANSLATED_MAX]  # of remote addresses
    uint32_t mtu[2]  # of the side to which packets of a direction go: [OUTBOUND] is the uplink's
    machine_rule machines
    uint8_t exhausted_code  # of ICMP 3, when no flow or port is left
    bint refuse_unsolicited  # RFC 5382 REQ-4: ICMP 3/3 after 6 s
    bint reset_unknown
    bint isolated  # guests do not reach each other by external addresses either

cdef struct nat_engine:
    nat_settings settings
    uint64_t now_ns  # of the burst that is under way, from the caller's clock; never goes back
    uint32_t now_s
    address_table addresses
    conntrack flows
    mapping_table mappings
    emitter emitted  # by the last burst or expiry
    icmp_answers answers
    reassembly fragments
    fragment_ids ids
    unsolicited_table unsolicited
    uint64_t verdicts[VERDICTS]  # frames by what became of them


cdef inline void nat_set_time(nat_engine *engine, uint64_t now_ns) noexcept nogil:
    if now_ns > engine.now_ns:
        engine.now_ns = now_ns
        engine.now_s = <uint32_t>(now_ns // 1_000_000_000)
