"""Checks what control says of a router's two sides and their neighbours, and then does it."""

from libc.errno cimport EINVAL, ENOENT, ENOSPC
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.dataplane.engine_state cimport nat_prefix, nat_prefix6
from arcbox_net.dataplane.neighbours cimport (
    NEIGHBOUR_KNOWN, NEIGHBOUR_SOUGHT, NEIGHBOUR_UNREACHABLE, neighbour, neighbours_doubt, neighbours_find,
    neighbours_forget, neighbours_tell,
)
from arcbox_net.dataplane.port cimport PORTS_MAX, port_message
from arcbox_net.dataplane.router_send cimport drop_waiting, send_waiting
from arcbox_net.dataplane.router_state cimport (
    ON_LINK_MAX, ROUTER_JOINS, WAY_LEG, WAY_OUT, WAYS, router, router_side,
)
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND, Direction
from arcbox_net.wire.ethernet cimport MAC_BYTES, ethernet_is_group, ethernet_mac
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES

cpdef enum RouterMessage:
    ROUTER_SETUP = 200
    ROUTER_NEIGHBOUR = 201

cdef enum:  # router_config.Told
    TOLD_UNKNOWN = 0
    TOLD_SOUGHT = 1
    TOLD_MAC = 2
    TOLD_UNREACHABLE = 3

cdef packed struct side_payload:
    uint8_t mac[MAC_BYTES]
    uint32_t address_be
    uint8_t address6[IPV6_ADDRESS_BYTES]
    uint8_t link_local6[IPV6_ADDRESS_BYTES]

cdef packed struct setup_payload:
    uint16_t uplink
    uint16_t leg
    uint8_t leg_mac[MAC_BYTES]
    side_payload sides[2]
    uint32_t next_hop_be
    uint8_t next_hop6[IPV6_ADDRESS_BYTES]
    uint32_t on_link_count
    nat_prefix on_link[ON_LINK_MAX]
    uint32_t on_link6_count
    nat_prefix6 on_link6[ON_LINK_MAX]

cdef packed struct neighbour_payload:
    uint8_t way
    uint8_t told  # Told
    uint8_t mac[MAC_BYTES]
    uint8_t key[IPV6_ADDRESS_BYTES]


cdef int router_message(router *r, const port_message *message) noexcept nogil:
    """0, or a negative errno."""
    if message.kind == ROUTER_SETUP:
        return _set_up(r, message)
    if message.kind == ROUTER_NEIGHBOUR:
        return _set_neighbour(r, message)
    return -EINVAL


cdef int _set_up(router *r, const port_message *message) noexcept nogil:
    cdef setup_payload wanted
    if message.size != sizeof(wanted):
        return -EINVAL
    memcpy(&wanted, message.payload, sizeof(wanted))
    if wanted.uplink >= PORTS_MAX or wanted.on_link_count > ON_LINK_MAX or wanted.on_link6_count > ON_LINK_MAX:
        return -EINVAL
    r.uplink = wanted.uplink
    r.leg = wanted.leg
    memcpy(r.leg_mac, wanted.leg_mac, MAC_BYTES)
    _set_up_side(&r.sides[<int>OUTBOUND], &wanted.sides[<int>OUTBOUND])
    _set_up_side(&r.sides[<int>INBOUND], &wanted.sides[<int>INBOUND])
    r.routes.next_hop_be = wanted.next_hop_be
    memcpy(r.routes.next_hop6, wanted.next_hop6, IPV6_ADDRESS_BYTES)
    r.routes.on_link_count = wanted.on_link_count
    memcpy(r.routes.on_link, wanted.on_link, sizeof(r.routes.on_link))
    r.routes.on_link6_count = wanted.on_link6_count
    memcpy(r.routes.on_link6, wanted.on_link6, sizeof(r.routes.on_link6))
    neighbours_doubt(&r.sides[<int>OUTBOUND].neighbours, r.now_s)
    r.joins_left = ROUTER_JOINS
    return 0


cdef void _set_up_side(router_side *side, const side_payload *wanted) noexcept nogil:
    memcpy(side.mac, wanted.mac, MAC_BYTES)
    side.address_be = wanted.address_be
    memcpy(side.address6, wanted.address6, IPV6_ADDRESS_BYTES)
    memcpy(side.link_local6, wanted.link_local6, IPV6_ADDRESS_BYTES)


cdef int _set_neighbour(router *r, const port_message *message) noexcept nogil:
    cdef neighbour_payload wanted
    cdef router_side *side
    cdef neighbour *one
    cdef Direction towards
    if message.size != sizeof(wanted):
        return -EINVAL
    memcpy(&wanted, message.payload, sizeof(wanted))
    if wanted.way >= WAYS or wanted.told > TOLD_UNREACHABLE:
        return -EINVAL
    if wanted.told == TOLD_MAC and (ethernet_is_group(wanted.mac) or ethernet_mac(wanted.mac) == 0):
        return -EINVAL
    towards = OUTBOUND if wanted.way == WAY_OUT else INBOUND
    side = &r.sides[<int>towards]
    one = neighbours_find(&side.neighbours, wanted.key)
    if wanted.told == TOLD_UNKNOWN:
        if one == NULL:
            return -ENOENT
        drop_waiting(r, towards, <uint32_t>(one - side.neighbours.entries))
        neighbours_forget(&side.neighbours, <uint32_t>(one - side.neighbours.entries))
        return 0
    one = neighbours_tell(&side.neighbours, wanted.key, _state_of(wanted.told), wanted.mac)
    if one == NULL:
        return -ENOSPC
    one.by_leg = wanted.way == WAY_LEG
    if one.state == NEIGHBOUR_KNOWN:
        send_waiting(r, towards, one)
    elif one.state == NEIGHBOUR_UNREACHABLE:
        drop_waiting(r, towards, <uint32_t>(one - side.neighbours.entries))
    return 0


cdef uint8_t _state_of(uint8_t told) noexcept nogil:
    if told == TOLD_MAC:
        return NEIGHBOUR_KNOWN
    return NEIGHBOUR_SOUGHT if told == TOLD_SOUGHT else NEIGHBOUR_UNREACHABLE
