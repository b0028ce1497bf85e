"""Adding and removing the operator's mappings. A port of one may be of no range, and is never anybody else's."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.dataplane.guests cimport (
    EXTERNAL_NONE, GUEST_NONE, PORT_SPACES, guest_open, guest_pair, guest_port_take, guest_settle,
)
from arcbox_net.dataplane.machine cimport machine_of_forwards
from arcbox_net.dataplane.mapping cimport (
    MAPPING_LIVE, MAPPING_NONE, MAPPING_STATIC, external_number, mapping, mapping_find, mapping_next, mapping_place,
    mapping_pool, mapping_publish, mapping_release, mapping_withdraw, place_is_held, port_space,
)
from arcbox_net.dataplane.port_choice cimport hold_release
from arcbox_net.dataplane.port_pool cimport PLACES, bit_at, place_of, pool_take
from arcbox_net.wire.octets cimport order_u16


cdef static_result mapping_add_static(
    mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port, uint32_t inside_ip_be,
    uint16_t inside_port, uint32_t count, uint32_t *taken
) noexcept nogil:
    """Lead *count* external ports from *external_port* on to as many of a guest; a port on hold is free for that.

    Packets that the guest sends from such a port leave by its mapping: by the first, if it has several.
    """
    cdef uint32_t external = external_number(table, external_ip_be)
    cdef uint32_t number, i
    cdef uint16_t owner
    cdef uint8_t why
    if external == EXTERNAL_NONE or not table.configured[external]:
        return STATIC_NO_EXTERNAL
    if external_port == 0 or inside_port == 0 or count > <uint32_t>PLACES - max(external_port, inside_port):
        return STATIC_BAD_RANGE
    number = external * PORT_SPACES + port_space(protocol)
    for i in range(count):
        taken[0] = number << 16 | place_of(<uint16_t>(external_port + i))
        if table.entries[taken[0]].flags & MAPPING_LIVE:
            return STATIC_PORT_TAKEN
    if count > table.mappings_max - table.mappings:
        return STATIC_MAPPINGS_FULL
    owner = guest_open(&table.guests, inside_ip_be, machine_of_forwards(inside_ip_be), &why)
    if owner == GUEST_NONE:
        return STATIC_GUESTS_FULL
    table.guests.entries[owner].statics += count
    if table.guests.entries[owner].external == EXTERNAL_NONE:
        guest_pair(&table.guests, owner, <uint8_t>external)
    for i in range(count):
        _add_one(
            table, number, place_of(<uint16_t>(external_port + i)), protocol, inside_ip_be,
            order_u16(<uint16_t>(inside_port + i)), owner,
        )
    guest_settle(&table.guests, owner)
    return STATIC_DONE


cdef void _add_one(
    mapping_table *table, uint32_t number, uint32_t place, uint8_t protocol, uint32_t inside_ip_be,
    uint16_t inside_port_be, uint16_t owner
) noexcept nogil:
    cdef mapping_pool *pool = &table.pools[number]
    cdef uint32_t id = number << 16 | place
    cdef uint32_t other = mapping_find(table, protocol, inside_ip_be, inside_port_be)
    if place_is_held(pool, place):
        hold_release(table, number, place)
    if bit_at(pool.ports.free, place):
        pool_take(&pool.ports, place)
    mapping_place(table, id, protocol, inside_ip_be, inside_port_be, owner)
    table.entries[id].flags |= MAPPING_STATIC
    if other != MAPPING_NONE:
        if table.entries[other].flags & MAPPING_STATIC:
            return
        # Its flows stay as they are; new ones leave by the port that the operator chose.
        mapping_withdraw(table, other)
    mapping_publish(table, id)


cdef uint32_t mapping_remove_static(
    mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port, uint32_t count,
    uint32_t now_s
) noexcept nogil:
    cdef uint32_t external = external_number(table, external_ip_be)
    cdef uint32_t number, i, id
    cdef uint32_t removed = 0
    if external == EXTERNAL_NONE:
        return 0
    number = external * PORT_SPACES + port_space(protocol)
    for i in range(min(count, <uint32_t>(PLACES - external_port))):
        id = number << 16 | place_of(<uint16_t>(external_port + i))
        if table.entries[id].flags & MAPPING_STATIC:
            _remove_one(table, id, now_s)
            removed += 1
    return removed


cdef void _remove_one(mapping_table *table, uint32_t id, uint32_t now_s) noexcept nogil:
    """A mapping with flows goes on as the guest's own, for as long as they do."""
    cdef mapping *entry = &table.entries[id]
    if entry.refs == 0:
        mapping_release(table, id, True, now_s)
        return
    entry.flags &= ~MAPPING_STATIC
    table.guests.entries[entry.guest].statics -= 1
    guest_port_take(&table.guests, entry.guest, (id >> 16) % PORT_SPACES)


cdef void mapping_find_again(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port, uint32_t count
) noexcept nogil:
    """RFC 4787 REQ-1: an endpoint whose forward ended has, of its mappings that live, one and no new one."""
    _publish_others(table, protocol, inside_ip_be, inside_port, count, MAPPING_STATIC)
    _publish_others(table, protocol, inside_ip_be, inside_port, count, 0)


cdef void _publish_others(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port, uint32_t count, uint8_t kind
) noexcept nogil:
    """Of *kind*: MAPPING_STATIC, or 0."""
    cdef uint32_t id = mapping_next(table, 0)
    cdef const mapping *entry
    while id != MAPPING_NONE:
        entry = &table.entries[id]
        if (
            entry.inside_ip_be == inside_ip_be
            and entry.protocol == protocol
            and entry.flags & MAPPING_STATIC == kind
            and <uint32_t>order_u16(entry.inside_port_be) - inside_port < count
            and mapping_find(table, protocol, inside_ip_be, entry.inside_port_be) == MAPPING_NONE
        ):
            mapping_publish(table, id)
        id = mapping_next(table, id + 1)
