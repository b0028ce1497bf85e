"""All that a switch is: its ports' bindings, its tables, what it was told of the network. One thread works on it.

switch.pyx moves bursts through it, switch_messages.pyx changes it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.binding cimport binding
from arcbox_net.dataplane.emitter cimport emitter
from arcbox_net.dataplane.engine_state cimport nat_prefix, nat_prefix6
from arcbox_net.dataplane.fdb cimport FDB_ENTRIES_MAX, fdb
from arcbox_net.dataplane.icmp_answers cimport icmp_answers
from arcbox_net.dataplane.notices cimport PEERS_MAX
from arcbox_net.dataplane.owners cimport owner_table
from arcbox_net.dataplane.port cimport PORTS_MAX, receiver, worker
from arcbox_net.memory.ring cimport ring_end
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    GATEWAYS6_MAX = 4

cdef struct switch_network:  # what control knows of it; zeros: an L2 segment whose addresses are others' business
    bint has_subnet6
    nat_prefix6 subnet6  # guests' IPv6 addresses are of it or link-local
    uint32_t gateway6_count
    uint8_t gateways6[GATEWAYS6_MAX][IPV6_ADDRESS_BYTES]  # never a guest's
    bint has_router
    uint16_t router  # the port that takes what leaves the subnet, by way of the gateway's MAC
    uint64_t gateway_mac
    nat_prefix subnet
    bint has_service
    uint16_t service  # the port that takes what serving.pxd says
    uint32_t gateway_be

cdef struct fdb_entry:  # of a listing
    uint64_t mac
    uint32_t age_s
    uint16_t port
    bint is_static

cdef struct switch_state:
    receiver base
    worker *owner  # of the last burst; NULL before the first
    uint32_t now_s  # 1 or more
    fdb macs
    owner_table owners
    binding bindings[PORTS_MAX]
    uint32_t member_count
    uint16_t members[PORTS_MAX]  # ports that are bound
    switch_network network
    emitter answers_out
    icmp_answers answers
    uint32_t peers  # the switches of the network's other workers
    ring_end *telling[PEERS_MAX]
    ring_end *hearing[PEERS_MAX]
    uint64_t floods  # frames that went to more than one port
    uint32_t listed_count
    fdb_entry listed[FDB_ENTRIES_MAX]  # by the last message that asked
