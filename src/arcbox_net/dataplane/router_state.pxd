"""All that a router is: its engine, its two sides with their neighbours, and the frames that wait for a MAC address.

`sides` is indexed by where packets go: [OUTBOUND] is the uplink's, [INBOUND] the guests', to whom two ways lead.
Functions of the other router files take it with its `worker`'s thread between them: nothing here is locked.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.engine_state cimport nat_engine, nat_prefix, nat_prefix6
from arcbox_net.dataplane.neighbours cimport neighbour_table
from arcbox_net.dataplane.port cimport port, receiver
from arcbox_net.dataplane.shares cimport shares
from arcbox_net.wire.ethernet cimport MAC_BYTES
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cdef enum:
    INSIDE_MAX = 1 << 15  # neighbours: all addresses that a switch lets its guests have, and some to spare
    OUTSIDE_MAX = 1 << 10
    TOLD_MAX = 272  # next hops, and those that control tells, besides these
    WAITING_MAX = 64  # frames of a side that wait for an answer
    WAITING_EACH_MAX = 8
    ROUTER_JOINS = 3
    ON_LINK_MAX = 4  # prefixes of each family

cdef enum:  # ways of packets: the uplink's, and those of the guests by the switch and by the leg on the bridge
    WAY_OUT = 0  # OUTBOUND
    WAY_SWITCH = 1  # INBOUND
    WAY_LEG = 2
    WAYS = 3

cdef struct waiting_frame:
    uint8_t *data  # of a pool's buffer; NULL: the place is free
    uint32_t size
    uint32_t neighbour  # its number
    uint32_t share

cdef struct router_side:
    neighbour_table neighbours
    uint8_t mac[MAC_BYTES]  # ours
    uint32_t address_be  # of ours, who asks; 0: none of that family
    uint8_t address6[IPV6_ADDRESS_BYTES]
    uint8_t link_local6[IPV6_ADDRESS_BYTES]
    shares waiting_shares
    waiting_frame waiting[WAITING_MAX]
    uint64_t unresolved  # frames that nobody answered for

cdef struct router_routes:  # of the uplink
    uint32_t on_link_count
    nat_prefix on_link[ON_LINK_MAX]
    uint32_t on_link6_count
    nat_prefix6 on_link6[ON_LINK_MAX]
    uint32_t next_hop_be  # 0: none
    uint8_t next_hop6[IPV6_ADDRESS_BYTES]

cdef struct router:
    port base  # what guests send to: the switch's port
    nat_engine *engine
    uint16_t uplink  # its port's number
    uint16_t leg  # as well: where guests with kernel devices are; PORT_NONE: there is no such
    uint8_t leg_mac[MAC_BYTES]
    router_side sides[2]
    router_routes routes
    uint32_t now_s
    uint32_t joins_left  # reports of its groups that are due anyway
    uint32_t reported_s
    bint is_queried
    uint64_t last_mac  # of the guest that was learned last, and when
    uint32_t last_ip_be
    uint32_t last_s

cdef struct router_receiver:  # what the uplink, or the leg, sends to
    receiver base
    router *of
