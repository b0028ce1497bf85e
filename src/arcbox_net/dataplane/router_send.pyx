"""Owns the way out of a router: next hops, MAC addresses, and the frames that wait until somebody answers for them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from arcbox_net.dataplane.addresses6 cimport prefix6_has
from arcbox_net.dataplane.icmp_refuse cimport icmp_refuse
from arcbox_net.dataplane.neighbours cimport (
    NEIGHBOUR_SOUGHT, NEIGHBOUR_UNREACHABLE, neighbour, neighbour_is_due, neighbour_key4, neighbours_find,
    neighbours_seek,
)
from arcbox_net.dataplane.port cimport (
    PORT_DROP_NOWHERE, PORT_DROP_WAITING, PORTS_MAX, PortDrop, port, port_drop, port_frame, receiver,
)
from arcbox_net.dataplane.port_send cimport port_send
from arcbox_net.dataplane.router_ask cimport router_ask
from arcbox_net.dataplane.router_state cimport (
    WAITING_EACH_MAX, WAITING_MAX, WAY_LEG, WAY_SWITCH, WAYS, router, router_routes, router_side, waiting_frame,
)
from arcbox_net.dataplane.shares cimport SHARE_NONE, share_give_back, share_take, sharer
from arcbox_net.dataplane.verdict cimport INBOUND, OUTBOUND, Direction
from arcbox_net.memory.frame cimport BURST_MAX, FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.memory.pool cimport POOL_SMALL, SMALL_FRAME_BYTES, pool_acquire, pool_release
from arcbox_net.wire.ethernet cimport (
    ETHERNET_DESTINATION, ETHERNET_HEADER_BYTES, ETHERNET_SOURCE, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MAC_BYTES,
    ethernet_mac, ethernet_type,
)
from arcbox_net.wire.icmp cimport ICMP_HOST_UNREACHABLE, ICMP_UNREACHABLE
from arcbox_net.wire.ipv4 cimport ipv4_check, ipv4_checksum_ok, ipv4_destination_be
from arcbox_net.wire.ipv6 cimport IPV6_ADDRESS_BYTES, IPV6_DESTINATION, ipv6_check
from arcbox_net.wire.neighbour cimport ipv6_is_unspecified


cdef void batch_add(
    router *r, Direction towards, router_batch *batches, const frame *f, uint16_t from_port
) noexcept nogil:
    """Send a translated packet with its way's batch; it may be sent before that is flushed, and lies there by then.

    A packet whose next hop is not known yet is copied, and waits. One that has none is dropped and counted.
    It came from *from_port*, and still has its sender's MAC.
    """
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint8_t key[IPV6_ADDRESS_BYTES]
    cdef neighbour *one
    cdef sharer by
    cdef uint32_t way
    if not _next_hop(r, towards, f.data + ETHERNET_HEADER_BYTES, key):
        side.unresolved += 1
        count_drop(r, from_port, PORT_DROP_NOWHERE)
        return
    one = neighbours_find(&side.neighbours, key)
    if one == NULL:
        by = sharer_of(r, f, from_port)
        one = neighbours_seek(&side.neighbours, key, NULL if _is_next_hop(&r.routes, key) else &by, r.now_s)
    if one == NULL:
        side.unresolved += 1
        count_drop(r, from_port, PORT_DROP_WAITING)
        return
    one.used_s = r.now_s
    if one.state == NEIGHBOUR_UNREACHABLE:
        side.unresolved += 1
        count_drop(r, from_port, PORT_DROP_NOWHERE)
        return
    if one.state == NEIGHBOUR_SOUGHT:
        _wait(r, towards, one, f, from_port)
        if one.probes == 0 and neighbour_is_due(one, r.now_s):
            router_ask(r, towards, key)
        return
    way = _way_to(towards, one)
    _append(r, way, &batches[way], one, f)


cdef bint router_is_refused(const router *r, const frame *f) noexcept nogil:
    """Whether a packet of a guest, not yet translated, has a next hop that does not answer."""
    cdef const uint8_t *ip = f.data + ETHERNET_HEADER_BYTES
    cdef uint32_t size = f.size - ETHERNET_HEADER_BYTES
    cdef uint8_t key[IPV6_ADDRESS_BYTES]
    cdef const neighbour *one
    if ethernet_type(f.data) == ETHERTYPE_IPV4:
        if not ipv4_check(ip, size) or not ipv4_checksum_ok(ip):
            return False
    elif ethernet_type(f.data) != ETHERTYPE_IPV6 or not ipv6_check(ip, size):
        return False
    if not _next_hop(r, OUTBOUND, ip, key):
        return False
    one = neighbours_find(&r.sides[<int>OUTBOUND].neighbours, key)
    return one != NULL and one.state == NEIGHBOUR_UNREACHABLE


cdef void router_refuse(router *r, const frame *f, uint16_t from_port) noexcept nogil:
    """Drop and count such a packet, and tell its sender."""
    r.sides[<int>OUTBOUND].unresolved += 1
    count_drop(r, from_port, PORT_DROP_NOWHERE)
    icmp_refuse(
        &r.engine.answers, f, INBOUND, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE, 0, r.base.owner.now_ns
    )


cdef void batches_flush(router *r, router_batch *batches) noexcept nogil:
    """Send what is in the batches of all ways."""
    cdef uint32_t way
    for way in range(<uint32_t>WAYS):
        _flush(r, way, &batches[way])


cdef void _flush(router *r, uint32_t way, router_batch *batch) noexcept nogil:
    cdef port_frame *frames[BURST_MAX]
    cdef receiver *inside = r.base.sink
    cdef uint16_t number = r.leg if way == WAY_LEG else r.uplink
    cdef port *out = r.base.owner.ports[number] if number < PORTS_MAX else NULL
    cdef uint32_t i
    if batch.count == 0:
        return
    if way == WAY_SWITCH:
        inside.burst(inside, &r.base, batch.frames, batch.count)
    elif out != NULL:
        for i in range(batch.count):
            frames[i] = &batch.frames[i]
        port_send(out, frames, batch.count)
    batch.count = 0


cdef uint32_t _way_to(Direction towards, const neighbour *one) noexcept nogil:
    return <uint32_t>WAY_LEG if one.by_leg else <uint32_t>towards


cdef sharer sharer_of(const router *r, const frame *f, uint16_t from_port) noexcept nogil:
    """Whose share a frame takes of: its port's, or, of guests behind the leg, its sender's, whose MAC is judged."""
    cdef sharer by
    by.port = from_port
    by.mac = ethernet_mac(f.data + ETHERNET_SOURCE) if from_port == r.leg else 0
    return by


cdef void count_drop(router *r, uint16_t from_port, PortDrop reason) noexcept nogil:
    """A frame that came from a port is dropped."""
    cdef port *source = r.base.owner.ports[from_port] if from_port < PORTS_MAX else NULL
    port_drop(source if source != NULL else &r.base, reason, 1)


cdef void send_waiting(router *r, Direction towards, const neighbour *one) noexcept nogil:
    """*one* was heard: send what waited for it."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint32_t i, n = 0, id = <uint32_t>(one - side.neighbours.entries), way = _way_to(towards, one)
    cdef router_batch batch
    cdef uint8_t *sent[WAITING_MAX]
    cdef frame f
    batch.count = 0
    for i in range(<uint32_t>WAITING_MAX):
        if side.waiting_shares.taken and side.waiting[i].data != NULL and side.waiting[i].neighbour == id:
            _describe(&f, side.waiting[i].data, side.waiting[i].size)
            sent[n] = _take(side, &side.waiting[i])
            n += 1
            _append(r, way, &batch, one, &f)
    _flush(r, way, &batch)
    for i in range(n):
        pool_release(r.base.owner.buffers, sent[i])


cdef void drop_waiting(router *r, Direction towards, uint32_t id) noexcept nogil:
    """Nobody answered for the neighbour."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint32_t i
    for i in range(<uint32_t>WAITING_MAX):
        if side.waiting[i].data != NULL and side.waiting[i].neighbour == id:
            pool_release(r.base.owner.buffers, _take(side, &side.waiting[i]))
            side.unresolved += 1


cdef void router_send_frame(router *r, Direction towards, uint8_t *data, uint32_t size) noexcept nogil:
    """Send a whole frame with its MAC addresses; room for a virtio-net header is ahead of it."""
    cdef router_batch batch
    cdef frame f
    memset(data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    _describe(&f, data, size)
    batch.count = 0
    _put(r, &batch, &f)
    _flush(r, towards, &batch)


cdef bint _next_hop(const router *r, Direction towards, const uint8_t *ip, uint8_t *key) noexcept nogil:
    """Whose MAC address a packet needs; False: there is no way to its destination."""
    if ip[0] >> 4 == 4:
        return _next_hop4(&r.routes, towards, ipv4_destination_be(ip), key)
    return _next_hop6(&r.routes, towards, ip + IPV6_DESTINATION, key)


cdef bint _next_hop4(
    const router_routes *routes, Direction towards, uint32_t destination_be, uint8_t *key
) noexcept nogil:
    cdef uint32_t i, next_hop_be = routes.next_hop_be
    if towards != OUTBOUND:
        next_hop_be = destination_be
    for i in range(routes.on_link_count):
        if destination_be & routes.on_link[i].mask_be == routes.on_link[i].address_be:
            next_hop_be = destination_be
    neighbour_key4(key, next_hop_be)
    return next_hop_be != 0


cdef bint _next_hop6(
    const router_routes *routes, Direction towards, const uint8_t *destination, uint8_t *key
) noexcept nogil:
    cdef uint32_t i
    cdef const uint8_t *next_hop = &routes.next_hop6[0]
    if towards != OUTBOUND:
        next_hop = destination
    for i in range(routes.on_link6_count):
        if prefix6_has(&routes.on_link6[i], destination):
            next_hop = destination
    memcpy(key, next_hop, IPV6_ADDRESS_BYTES)
    return not ipv6_is_unspecified(key)


cdef bint _is_next_hop(const router_routes *routes, const uint8_t *key) noexcept nogil:
    """Whether all guests' way out leads by *key*."""
    cdef uint8_t next_hop[IPV6_ADDRESS_BYTES]
    neighbour_key4(next_hop, routes.next_hop_be)
    return memcmp(key, next_hop, sizeof(next_hop)) == 0 or memcmp(key, routes.next_hop6, sizeof(next_hop)) == 0


cdef void _append(
    router *r, uint32_t way, router_batch *batch, const neighbour *one, const frame *f
) noexcept nogil:
    cdef const uint8_t *own = &r.leg_mac[0]
    if way != WAY_LEG:
        own = r.sides[way].mac
    if batch.count == BURST_MAX:
        _flush(r, way, batch)
    memcpy(f.data + ETHERNET_DESTINATION, one.mac, MAC_BYTES)
    memcpy(f.data + ETHERNET_SOURCE, own, MAC_BYTES)
    _put(r, batch, f)


cdef void _put(const router *r, router_batch *batch, const frame *f) noexcept nogil:
    cdef port_frame *out = &batch.frames[batch.count]
    out.head = f[0]
    out.rest = NULL
    out.rest_count = 0
    out.from_port = r.base.number
    out.size = f.size
    batch.count += 1


cdef void _describe(frame *f, uint8_t *data, uint32_t size) noexcept nogil:
    f.data = data
    f.size = size
    f.headroom = 0
    f.l3 = ETHERNET_HEADER_BYTES
    f.flags = FRAME_VNET


cdef uint8_t *_take(router_side *side, waiting_frame *waiting) noexcept nogil:
    """The buffer of a frame that waits no longer."""
    cdef uint8_t *data = waiting.data
    waiting.data = NULL
    share_give_back(&side.waiting_shares, waiting.share)
    return data


cdef void _wait(
    router *r, Direction towards, const neighbour *one, const frame *f, uint16_t from_port
) noexcept nogil:
    """Keep a copy until *one* is heard, if there is room."""
    cdef router_side *side = &r.sides[<int>towards]
    cdef uint32_t i, same = 0, free_at = WAITING_MAX, id = <uint32_t>(one - side.neighbours.entries)
    cdef sharer by = sharer_of(r, f, from_port)
    cdef uint32_t share = SHARE_NONE
    cdef uint8_t *data = NULL
    for i in range(<uint32_t>WAITING_MAX):
        if side.waiting[i].data == NULL:
            free_at = i
        elif side.waiting[i].neighbour == id:
            same += 1
    # Large buffers are few, and what is dropped of a connection comes again.
    if free_at < WAITING_MAX and same < WAITING_EACH_MAX and f.size <= SMALL_FRAME_BYTES:
        share = share_take(&side.waiting_shares, &by)
        if share != SHARE_NONE:
            data = pool_acquire(r.base.owner.buffers, POOL_SMALL)
            if data == NULL:
                share_give_back(&side.waiting_shares, share)
    if data == NULL:
        side.unresolved += 1
        count_drop(r, from_port, PORT_DROP_WAITING)
        return
    memcpy(data - FRAME_VNET_BYTES, f.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES + f.size)
    side.waiting[free_at].data = data
    side.waiting[free_at].size = f.size
    side.waiting[free_at].neighbour = id
    side.waiting[free_at].share = share
