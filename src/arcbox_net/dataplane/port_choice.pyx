"""Which external address a guest gets, and which of its ports a mapping: RFC 4787 REQ-2 to 4, 6056, 6888 REQ-8."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.address_table cimport address_is_interned
from arcbox_net.dataplane.guests cimport (
    EXTERNAL_NONE, GUEST_NONE, PORT_SPACES, SPACE_ICMP, SPACE_TCP, SPACE_UDP, guest_machine_ports, guest_port_drop,
    guest_settle,
)
from arcbox_net.dataplane.mapping cimport mapping_pool, mapping_table, place_is_held
from arcbox_net.dataplane.port_hold cimport HELD_OWN, hold_end, hold_queue
from arcbox_net.dataplane.port_pool cimport (
    ALL_KINDS, EVEN_KINDS, HIGH_KINDS, LOW_KINDS, LOW_PORTS, ODD_KINDS, PLACE_NONE, bit_at, kind_at, place_of,
    pool_count, pool_draw, pool_free_count, pool_return, pool_take, port_pool,
)
from arcbox_net.dataplane.verdict cimport DROP_GUEST_PORTS, DROP_PORTS_EXHAUSTED

cdef enum:
    # Holds that are over and ended by the way when a port is wanted, and when none is free.
    ENDED_BY_THE_WAY = 4
    ENDED_IN_NEED = 64
    # A guest at its quota gets one of its own ports on hold: the first of so many that is of the right kind.
    OWN_LOOKS = 8

# What kinds of ports stand for an inside port, and what kinds do if there are none of those.
cdef struct port_wish:
    uint32_t kinds
    uint32_t otherwise


cdef uint8_t freest_external(const mapping_table *table, uint32_t inside_ip_be) noexcept nogil:
    """The external address of the guest's family with the most free ports for each guest that has it: a new one stays
    (RFC 4787 REQ-2). EXTERNAL_NONE when no address is of its family.
    """
    cdef uint32_t i, free_count
    cdef uint32_t most = 0
    cdef uint8_t freest = EXTERNAL_NONE
    cdef const mapping_pool *pools
    for i in range(table.external_count):
        if address_is_interned(table.externals_be[i]) != address_is_interned(inside_ip_be):
            continue
        pools = &table.pools[i * PORT_SPACES]
        free_count = (
            pool_free_count(&pools[SPACE_TCP].ports)
            + pool_free_count(&pools[SPACE_UDP].ports)
            + pool_free_count(&pools[SPACE_ICMP].ports)
        ) // (table.guests.paired[i] + 1)
        if table.configured[i] and free_count >= most:
            most = free_count
            freest = <uint8_t>i
    return freest


cdef uint32_t place_for(
    mapping_table *table, uint32_t number, uint16_t id, uint16_t inside_port, uint32_t now_s, uint8_t *why
) noexcept nogil:
    """The place of a port that now is the guest's and nobody else's, or PLACE_NONE and why."""
    cdef mapping_pool *pool = &table.pools[number]
    cdef port_wish wish = _wish_for(table, number, inside_port)
    cdef uint32_t quota = table.guests.quotas.ports if table.guests.quotas.ports else pool.share
    cdef uint32_t place = place_of(inside_port)
    holds_end(table, number, now_s, ENDED_BY_THE_WAY)
    cdef bint within = guest_machine_ports(&table.guests, id, number % PORT_SPACES)[0] <= quota
    if table.preserve_ports and _is_held_for(pool, place, id):
        _take_back(table, number, place, id)
        return place
    if within:
        if not (table.preserve_ports and bit_at(pool.ports.free, place)):
            place = _draw(table, number, wish, now_s)
        if place != PLACE_NONE:
            pool_take(&pool.ports, place)
            return place
    place = _own_hold(table, number, id, wish.kinds | wish.otherwise)
    if place != PLACE_NONE:
        _take_back(table, number, place, id)
        return place
    why[0] = DROP_PORTS_EXHAUSTED if within else DROP_GUEST_PORTS
    return PLACE_NONE


cdef port_wish _wish_for(const mapping_table *table, uint32_t number, uint16_t inside_port) noexcept nogil:
    """The class of a port is kept (RFC 4787 REQ-3): but a low one becomes a high one rather than none, and a high one
    a low one where the ranges have no high ones. Query ids have neither class nor parity.
    """
    cdef port_wish wish
    cdef uint32_t parity = ALL_KINDS
    wish.kinds = ALL_KINDS
    wish.otherwise = 0
    if number % PORT_SPACES == SPACE_ICMP:
        return wish
    if table.keep_parity:
        parity = ODD_KINDS if inside_port & 1 else EVEN_KINDS
    if inside_port < LOW_PORTS:
        wish.kinds = parity & LOW_KINDS
        wish.otherwise = parity & HIGH_KINDS
    else:
        wish.kinds = parity & HIGH_KINDS
        if pool_count(&table.pools[number].ports, wish.kinds) == 0:
            wish.otherwise = parity & LOW_KINDS
    return wish


cdef uint32_t _draw(mapping_table *table, uint32_t number, port_wish wish, uint32_t now_s) noexcept nogil:
    cdef port_pool *ports = &table.pools[number].ports
    cdef uint32_t place = pool_draw(ports, wish.kinds, &table.random)
    if place == PLACE_NONE and holds_end(table, number, now_s, ENDED_IN_NEED):
        place = pool_draw(ports, wish.kinds, &table.random)
    if place == PLACE_NONE:
        place = pool_draw(ports, wish.otherwise, &table.random)
    return place


cdef bint _is_held_for(const mapping_pool *pool, uint32_t place, uint16_t id) noexcept nogil:
    """Whether the port is on hold for this guest."""
    return place_is_held(pool, place) and pool.on_hold.holds[place].guest == id


cdef uint32_t _own_hold(mapping_table *table, uint32_t number, uint16_t id, uint32_t kinds) noexcept nogil:
    """Of the ports on hold for the guest, the one held longest that is of *kinds*, or PLACE_NONE."""
    cdef uint32_t place = table.guests.entries[id].held[number % PORT_SPACES].first
    cdef int _look
    for _look in range(OWN_LOOKS):
        if place == PLACE_NONE or kinds >> kind_at(place) & 1:
            return place
        place = table.pools[number].on_hold.holds[place].links[HELD_OWN].next
    return PLACE_NONE


cdef void _take_back(mapping_table *table, uint32_t number, uint32_t place, uint16_t id) noexcept nogil:
    """End a hold of the guest's for a mapping of the same guest; it was counted twice."""
    cdef uint32_t space = number % PORT_SPACES
    hold_end(&table.pools[number].on_hold, &table.guests.entries[id].held[space], <uint16_t>place)
    guest_port_drop(&table.guests, id, space)


cdef uint32_t holds_end(mapping_table *table, uint32_t number, uint32_t now_s, uint32_t budget) noexcept nogil:
    """End up to *budget* holds of a pool that are over, and return how many."""
    cdef hold_queue *queue = &table.pools[number].on_hold
    cdef uint32_t ended = 0
    while ended < budget and queue.all.first != PLACE_NONE:
        if now_s - queue.holds[queue.all.first].since_s <= table.hold_down_s:
            break
        hold_release(table, number, queue.all.first)
        ended += 1
    return ended


cdef void hold_release(mapping_table *table, uint32_t number, uint32_t place) noexcept nogil:
    """End a hold: the port is everybody's."""
    cdef mapping_pool *pool = &table.pools[number]
    cdef uint16_t id = pool.on_hold.holds[place].guest
    cdef uint32_t space = number % PORT_SPACES
    if id == GUEST_NONE:
        hold_end(&pool.on_hold, NULL, <uint16_t>place)
    else:
        hold_end(&pool.on_hold, &table.guests.entries[id].held[space], <uint16_t>place)
        port_uncount(table, id, space)
    pool_return(&pool.ports, place)


cdef void port_uncount(mapping_table *table, uint16_t id, uint32_t space) noexcept nogil:
    guest_port_drop(&table.guests, id, space)
    guest_settle(&table.guests, id)
