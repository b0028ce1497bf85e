"""Making mappings for guests, keeping them while guests use them, and giving their ports back."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.abi.bits cimport abx_trailing_zeros_u64
from arcbox_net.dataplane.contacts cimport contact_add, contact_drop, contacts_free, contacts_init
from arcbox_net.dataplane.guests cimport (
    GUEST_NONE, guest, guest_flow_drop, guest_flow_take, guest_open, guest_settle, guests_free, guests_init,
)
from arcbox_net.dataplane.port_hold cimport HELD_OWN, hold_begin, hold_end, port_hold
from arcbox_net.dataplane.port_pool cimport (
    ALL_KINDS, EVEN_KINDS, HIGH_KINDS, LOW_KINDS, LOW_PORTS, ODD_KINDS, PLACE_NONE, bit_at, kind_at, place_of,
    pool_count, pool_draw, pool_free_count, pool_init, pool_return, pool_take, port_at,
)
from arcbox_net.dataplane.slot_index cimport slot_index_free, slot_index_init, slot_insert, slot_remove
from arcbox_net.dataplane.verdict cimport (
    DROP_GUEST_FLOWS, DROP_GUEST_PORTS, DROP_GUESTS_FULL, DROP_MAPPINGS_FULL, DROP_PORTS_EXHAUSTED,
)
from arcbox_net.wire.octets cimport order_u16

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


cdef bint mapping_init(mapping_table *table, const mapping_config *config) noexcept nogil:
    """Ready for use, or False without memory; `mapping_free` is due all the same."""
    cdef uint32_t pools = config.external_count * PORT_SPACES
    cdef uint32_t i
    memset(table, 0, sizeof(mapping_table))
    table.mappings_max = config.mappings_max
    table.hold_down_s = config.hold_down_s
    table.filter = config.filter
    table.preserve_ports = config.preserve_ports
    table.keep_parity = config.keep_parity
    memcpy(table.random.key, &config.seed[0], sizeof(table.random.key))
    memcpy(table.seed, &config.seed[2], sizeof(table.seed))
    table.entries = <mapping *>calloc(<size_t>pools * PLACES, sizeof(mapping))
    table.pools = <mapping_pool *>calloc(pools, sizeof(mapping_pool))
    if table.entries == NULL or table.pools == NULL:
        return False
    table.external_count = config.external_count
    for i in range(config.external_count):
        table.externals_be[i] = config.externals[i].ip_be
    for i in range(pools):
        if not mapping_pool_init(&table.pools[i], config, i // PORT_SPACES):
            return False
    return (
        slot_index_init(&table.outbound, config.mappings_max, MAPPING_IDS)
        and guests_init(&table.guests, &config.quotas, table.seed)
        and contacts_init(&table.contacts, config.contacts_max, table.seed)
    )


cdef bint mapping_pool_init(mapping_pool *pool, const mapping_config *config, uint32_t external) noexcept nogil:
    cdef const external_address *address = &config.externals[external]
    pool_init(&pool.ports, &config.ranges[address.first_range], address.range_count)
    pool.share = max(pool_count(&pool.ports, ALL_KINDS) // POOL_SHARE, 1)
    pool.on_hold.holds = <port_hold *>calloc(PLACES, sizeof(port_hold))
    return pool.on_hold.holds != NULL


cdef void mapping_free(mapping_table *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.external_count * PORT_SPACES):
        free(table.pools[i].on_hold.holds)
    free(table.pools)
    free(table.entries)
    slot_index_free(&table.outbound)
    guests_free(&table.guests)
    contacts_free(&table.contacts)
    memset(table, 0, sizeof(mapping_table))


cdef uint32_t mapping_create(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be, uint32_t now_s,
    uint8_t *why
) noexcept nogil:
    """A mapping for an inside endpoint that has none, or MAPPING_NONE and in *why* the drop reason."""
    cdef uint32_t space = port_space(protocol)
    cdef uint32_t number, place
    cdef uint16_t id
    cdef guest *who
    if table.mappings >= table.mappings_max:
        why[0] = DROP_MAPPINGS_FULL
        return MAPPING_NONE
    id = guest_open(&table.guests, inside_ip_be)
    if id == GUEST_NONE:
        why[0] = DROP_GUESTS_FULL
        return MAPPING_NONE
    who = &table.guests.entries[id]
    if who.flows >= table.guests.quotas.flows:
        why[0] = DROP_GUEST_FLOWS
        guest_settle(&table.guests, id)
        return MAPPING_NONE
    if who.external == EXTERNAL_NONE:
        who.external = freest_external(table)
    # Counted before it is found: holds of this guest may end on the way, and must not have it forgotten.
    who.ports[space] += 1
    number = who.external * PORT_SPACES + space
    place = place_for(table, number, id, order_u16(inside_port_be), now_s, why)
    if place == PLACE_NONE:
        who.ports[space] -= 1
        guest_settle(&table.guests, id)
        return MAPPING_NONE
    mapping_place(table, number << 16 | place, protocol, inside_ip_be, inside_port_be, id)
    if not mapping_publish(table, number << 16 | place):
        mapping_release(table, number << 16 | place, False, now_s)
        why[0] = DROP_MAPPINGS_FULL
        return MAPPING_NONE
    return number << 16 | place


cdef uint8_t freest_external(const mapping_table *table) noexcept nogil:
    """The external address with the most free ports: a new guest stays with it (RFC 4787 REQ-2)."""
    cdef uint32_t i, free_count
    cdef uint32_t most = 0
    cdef uint8_t freest = 0
    for i in range(table.external_count):
        free_count = (
            pool_free_count(&table.pools[i * PORT_SPACES + SPACE_TCP].ports)
            + pool_free_count(&table.pools[i * PORT_SPACES + SPACE_UDP].ports)
            + pool_free_count(&table.pools[i * PORT_SPACES + SPACE_ICMP].ports)
        )
        if free_count > most:
            most = free_count
            freest = <uint8_t>i
    return freest


cdef uint32_t place_for(
    mapping_table *table, uint32_t number, uint16_t id, uint16_t inside_port, uint32_t now_s, uint8_t *why
) noexcept nogil:
    """The place of a port that now is the guest's and nobody else's, or PLACE_NONE and why."""
    cdef mapping_pool *pool = &table.pools[number]
    cdef port_wish wish = wish_for(table, number, inside_port)
    cdef uint32_t quota = table.guests.quotas.ports if table.guests.quotas.ports else pool.share
    cdef uint32_t place = place_of(inside_port)
    holds_end(table, number, now_s, ENDED_BY_THE_WAY)
    cdef bint within = table.guests.entries[id].ports[number % PORT_SPACES] <= quota
    if table.preserve_ports and is_held_for(pool, place, id):
        take_back(table, number, place, id)
        return place
    if within:
        if not (table.preserve_ports and bit_at(pool.ports.free, place)):
            place = draw(table, number, wish, now_s)
        if place != PLACE_NONE:
            pool_take(&pool.ports, place)
            return place
    place = own_hold(table, number, id, wish.kinds | wish.otherwise)
    if place != PLACE_NONE:
        take_back(table, number, place, id)
        return place
    why[0] = DROP_PORTS_EXHAUSTED if within else DROP_GUEST_PORTS
    return PLACE_NONE


cdef port_wish wish_for(const mapping_table *table, uint32_t number, uint16_t inside_port) noexcept nogil:
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


cdef uint32_t draw(mapping_table *table, uint32_t number, port_wish wish, uint32_t now_s) noexcept nogil:
    cdef port_pool *ports = &table.pools[number].ports
    cdef uint32_t place = pool_draw(ports, wish.kinds, &table.random)
    if place == PLACE_NONE and holds_end(table, number, now_s, ENDED_IN_NEED):
        place = pool_draw(ports, wish.kinds, &table.random)
    if place == PLACE_NONE:
        place = pool_draw(ports, wish.otherwise, &table.random)
    return place


cdef bint is_held_for(const mapping_pool *pool, uint32_t place, uint16_t id) noexcept nogil:
    """Whether the port is on hold for this guest."""
    return place_is_held(pool, place) and pool.on_hold.holds[place].guest == id


cdef uint32_t own_hold(mapping_table *table, uint32_t number, uint16_t id, uint32_t kinds) noexcept nogil:
    """Of the ports on hold for the guest, the one held longest that is of *kinds*, or PLACE_NONE."""
    cdef uint32_t place = table.guests.entries[id].held[number % PORT_SPACES].first
    cdef int _look
    for _look in range(OWN_LOOKS):
        if place == PLACE_NONE or kinds >> kind_at(place) & 1:
            return place
        place = table.pools[number].on_hold.holds[place].links[HELD_OWN].next
    return PLACE_NONE


cdef void take_back(mapping_table *table, uint32_t number, uint32_t place, uint16_t id) noexcept nogil:
    """End a hold of the guest's for a mapping of the same guest; it was counted twice."""
    cdef guest *who = &table.guests.entries[id]
    hold_end(&table.pools[number].on_hold, &who.held[number % PORT_SPACES], <uint16_t>place)
    who.ports[number % PORT_SPACES] -= 1


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
    table.guests.entries[id].ports[space] -= 1
    guest_settle(&table.guests, id)


cdef void mapping_place(
    mapping_table *table, uint32_t id, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be,
    uint16_t owner
) noexcept nogil:
    """Write the mapping *id*, whose port nobody else has."""
    cdef uint32_t number = id >> 16
    cdef uint32_t place = id & (PLACES - 1)
    cdef mapping *entry = &table.entries[id]
    entry.inside_ip_be = inside_ip_be
    entry.inside_port_be = inside_port_be
    entry.external_ip_be = table.externals_be[number // PORT_SPACES]
    entry.external_port_be = order_u16(port_at(place))
    entry.protocol = protocol
    entry.flags = MAPPING_LIVE
    entry.guest = owner
    entry.strong = entry.refs = 0
    table.pools[number].live[place >> 6] |= <uint64_t>1 << (place & 63)
    table.mappings += 1


cdef bint mapping_publish(mapping_table *table, uint32_t id) noexcept nogil:
    """Have packets of the inside endpoint find this mapping; False when the index has no room near its home."""
    return slot_insert(&table.outbound, entry_hash(table, id), id)


cdef uint64_t entry_hash(const mapping_table *table, uint32_t id) noexcept nogil:
    cdef const mapping *entry = &table.entries[id]
    return inside_hash(table, entry.protocol, entry.inside_ip_be, entry.inside_port_be)


cdef void mapping_withdraw(mapping_table *table, uint32_t id) noexcept nogil:
    """Have packets of the inside endpoint not find this mapping any more."""
    slot_remove(&table.outbound, entry_hash(table, id), id)


cdef void mapping_release(mapping_table *table, uint32_t id, bint used, uint32_t now_s) noexcept nogil:
    """End a mapping that has no flows. If it was *used* its port is on hold now: for its guest, or for nobody."""
    cdef uint32_t number = id >> 16
    cdef uint32_t place = id & (PLACES - 1)
    cdef uint32_t space = number % PORT_SPACES
    cdef mapping_pool *pool = &table.pools[number]
    cdef mapping *entry = &table.entries[id]
    cdef guest *who = &table.guests.entries[entry.guest]
    cdef bint operators = (entry.flags & MAPPING_STATIC) != 0
    # A guest's holds are of the address that it shares a queue with; a port of the operator's may be of any.
    cdef bint own = used and not operators and who.external * PORT_SPACES + space == number
    mapping_withdraw(table, id)
    pool.live[place >> 6] &= ~(<uint64_t>1 << (place & 63))
    entry.flags = 0
    table.mappings -= 1
    own = own and bit_at(pool.ports.usable, place)
    if own:
        hold_begin(&pool.on_hold, &who.held[space], <uint16_t>place, entry.guest, now_s)
        return
    if used and bit_at(pool.ports.usable, place):
        hold_begin(&pool.on_hold, NULL, <uint16_t>place, GUEST_NONE, now_s)
    else:
        pool_return(&pool.ports, place)
    if operators:
        who.statics -= 1
        guest_settle(&table.guests, entry.guest)
    else:
        port_uncount(table, entry.guest, space)


cdef bint mapping_hold(mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong) noexcept nogil:
    """Count a flow of the mapping with *remote_ip_be*; False, and nothing counted, when the guest is at its quota."""
    cdef mapping *entry = &table.entries[id]
    if not guest_flow_take(&table.guests, entry.guest):
        return False
    entry.refs += 1
    if strong:
        mapping_strengthen(table, id, remote_ip_be)
    return True


cdef void mapping_strengthen(mapping_table *table, uint32_t id, uint32_t remote_ip_be) noexcept nogil:
    """A flow that `mapping_hold` counted is of the guest's own doing from now on."""
    table.entries[id].strong += 1
    contact_add(&table.contacts, id, remote_ip_be)


cdef void mapping_drop(
    mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong, uint32_t now_s
) noexcept nogil:
    """Uncount a flow; with its last one the mapping ends, if it is not static."""
    cdef mapping *entry = &table.entries[id]
    cdef uint16_t owner = entry.guest
    if strong:
        entry.strong -= 1
        contact_drop(&table.contacts, id, remote_ip_be)
    entry.refs -= 1
    if entry.refs == 0 and not entry.flags & MAPPING_STATIC:
        mapping_release(table, id, True, now_s)
    guest_flow_drop(&table.guests, owner)


cdef void mapping_forget(mapping_table *table, uint32_t id) noexcept nogil:
    """Give back what `mapping_outbound` made, if no flow came of it: its port never was seen outside."""
    cdef const mapping *entry = &table.entries[id]
    if entry.refs == 0 and not entry.flags & MAPPING_STATIC:
        mapping_release(table, id, False, 0)


cdef uint32_t mapping_expire(mapping_table *table, uint32_t now_s, uint32_t budget) noexcept nogil:
    """End up to *budget* holds that are over; how many. Guests whose last port is on hold are known until then."""
    cdef uint32_t number
    cdef uint32_t ended = 0
    for number in range(table.external_count * PORT_SPACES):
        ended += holds_end(table, number, now_s, budget - ended)
    return ended


cdef uint32_t mapping_next(const mapping_table *table, uint32_t cursor) noexcept nogil:
    """The first live mapping from the number *cursor* on, or MAPPING_NONE."""
    cdef uint32_t word = cursor >> 6
    cdef uint32_t words = table.external_count * PORT_SPACES * POOL_WORDS
    cdef uint64_t ahead
    if word >= words:
        return MAPPING_NONE
    ahead = live_word(table, word) >> (cursor & 63)
    if ahead:
        return cursor + abx_trailing_zeros_u64(ahead)
    for word in range(word + 1, words):
        ahead = live_word(table, word)
        if ahead:
            return word * 64 + abx_trailing_zeros_u64(ahead)
    return MAPPING_NONE


cdef inline uint64_t live_word(const mapping_table *table, uint32_t word) noexcept nogil:
    return table.pools[word // POOL_WORDS].live[word % POOL_WORDS]
