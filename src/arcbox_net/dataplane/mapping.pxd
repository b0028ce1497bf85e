"""Mappings: which external address and port stands for an inside one, whatever it talks to (RFC 4787 REQ-1).

Theory of operation
    A mapping is where its external port is: its number says external address, space (TCP, UDP, ICMP query ids) and
    the place of the port. So a packet from outside finds it without a search, and no port can be given twice.
    `mapping_outbound` finds the mapping of an inside endpoint, or makes one:

        free ──mapping_outbound──▶ made ──mapping_hold(strong)──▶ alive ◀─mapping_hold(strong)─┐
          ▲                         │                              │ last strong flow ends     │
          │◀──────mapping_forget────┘                              ▼                           │
          │                                           weak flows left: dead ───────────────────┘
          └──hold-down over── on hold ◀──last flow ends────────────┘

    A strong flow is one that the guest opened or answered; a weak one was opened from outside. Only strong flows keep
    a mapping alive: a dead one admits nobody, and its port waits for its weak flows to end.
    A port that was used is on hold afterwards: for `hold_down_s` only the guest that had it may have it again. It
    counts as the guest's until then, so that no guest can take all ports by making and ending flows.
    A static mapping is the operator's: it lives without flows, admits everybody, and may have a port of no range.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport address_table
from arcbox_net.dataplane.contacts cimport CONTACT_NONE, contact_find, contact_table
from arcbox_net.dataplane.guests cimport (
    EXTERNAL_NONE, EXTERNALS_MAX, PORT_SPACES, SPACE_ICMP, SPACE_TCP, SPACE_UDP, flow_payer, guest_quotas, guest_table,
)
from arcbox_net.dataplane.port_hold cimport hold_queue
from arcbox_net.dataplane.port_pool cimport (
    PLACES, POOL_WORDS, RANGES_MAX, bit_at, place_of, port_pool, port_range,
)
from arcbox_net.dataplane.random_ports cimport random_source
from arcbox_net.dataplane.slot_index cimport SLOT_NONE, hash_mix, slot_index, slot_next, slot_prefetch
from arcbox_net.wire.octets cimport order_u16
from arcbox_net.wire.tcp cimport PROTOCOL_TCP
from arcbox_net.wire.udp cimport PROTOCOL_UDP

cdef enum:
    MAPPING_NONE = 0xFFFFFFFF
    MAPPING_IDS = EXTERNALS_MAX * PORT_SPACES * PLACES
    # Without a quota a guest gets one of so many parts of its address's ports: three guests that take all they can
    # leave a quarter of them to the others.
    POOL_SHARE = 4

    # `mapping.flags`
    MAPPING_LIVE = 1  # somebody has the port; without it the rest means nothing
    MAPPING_STATIC = 2

    # `mapping_config.filter`: from where packets come in (RFC 4787 §5)
    FILTER_ENDPOINT_INDEPENDENT = 0
    FILTER_ADDRESS_DEPENDENT = 1
    FILTER_ADDRESS_AND_PORT_DEPENDENT = 2

cdef struct mapping:
    uint32_t inside_ip_be
    uint32_t external_ip_be
    uint16_t inside_port_be
    uint16_t external_port_be
    uint8_t protocol
    uint8_t flags
    uint16_t guest
    uint32_t strong
    uint32_t refs

cdef struct external_address:
    uint32_t ip_be
    uint32_t first_range  # in `mapping_config.ranges`
    uint32_t range_count

cdef struct mapping_config:
    external_address externals[EXTERNALS_MAX]
    uint32_t external_count
    port_range ranges[RANGES_MAX]  # of external ports, of all addresses
    uint32_t mappings_max
    uint32_t contacts_max  # addresses that all mappings together remember having spoken to
    uint32_t hold_down_s
    guest_quotas quotas
    address_table *addresses  # of external and inside addresses that are IPv6; or NULL
    uint8_t filter
    bint preserve_ports  # an inside port stays the same outside, as long as it is free there
    bint keep_parity  # RFC 4787 REQ-4: even ports become even ones
    uint64_t seed[4]  # from the system's generator

cdef struct mapping_pool:
    port_pool ports
    uint64_t live[POOL_WORDS]  # places with a mapping
    hold_queue on_hold
    uint32_t share  # of the ports, that one guest may have without a quota

cdef struct mapping_table:
    mapping *entries  # PLACES for each pool
    mapping_pool *pools  # PORT_SPACES for each external address; mapping m is of pool m >> 16
    slot_index outbound  # by inside endpoint
    guest_table guests
    contact_table contacts
    random_source random
    uint64_t seed[2]
    uint32_t externals_be[EXTERNALS_MAX]
    bint configured[EXTERNALS_MAX]  # False: its ports go as their mappings end, and none is given out
    uint32_t external_count
    uint32_t mappings
    uint32_t mappings_max
    uint32_t hold_down_s
    uint8_t filter
    bint preserve_ports
    bint keep_parity


cdef uint32_t mapping_create(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be, uint64_t machine_key,
    uint32_t now_s, uint8_t *why
) noexcept nogil
cdef bint mapping_hold(
    mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong, flow_payer payer
) noexcept nogil
cdef void mapping_strengthen(mapping_table *table, uint32_t id, uint32_t remote_ip_be) noexcept nogil
cdef void mapping_drop(
    mapping_table *table, uint32_t id, uint32_t remote_ip_be, bint strong, flow_payer payer, uint32_t now_s
) noexcept nogil
cdef void mapping_forget(mapping_table *table, uint32_t id) noexcept nogil
cdef uint32_t mapping_expire(mapping_table *table, uint32_t now_s, uint32_t budget) noexcept nogil
cdef uint32_t mapping_next(const mapping_table *table, uint32_t cursor) noexcept nogil

# The steps of making and ending a mapping, for `mapping_static`.
cdef void mapping_place(
    mapping_table *table, uint32_t id, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be,
    uint16_t owner
) noexcept nogil
cdef bint mapping_publish(mapping_table *table, uint32_t id) noexcept nogil
cdef void mapping_withdraw(mapping_table *table, uint32_t id) noexcept nogil
cdef void mapping_release(mapping_table *table, uint32_t id, bint used, uint32_t now_s) noexcept nogil


cdef inline uint32_t port_space(uint8_t protocol) noexcept nogil:
    """The space of external L4 numbers of a protocol that has one: TCP, UDP or ICMP."""
    return SPACE_TCP if protocol == PROTOCOL_TCP else SPACE_UDP if protocol == PROTOCOL_UDP else SPACE_ICMP


cdef inline bint mapping_alive(const mapping *entry) noexcept nogil:
    """Whether packets from outside may open flows on it."""
    return entry.strong != 0 or (entry.flags & MAPPING_STATIC) != 0


cdef inline uint64_t inside_hash(
    const mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be
) noexcept nogil:
    return hash_mix(inside_ip_be, <uint64_t>protocol << 16 | inside_port_be, table.seed)


cdef inline uint32_t mapping_find(
    const mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be
) noexcept nogil:
    """The mapping of an inside endpoint, dead or alive, or MAPPING_NONE."""
    cdef uint64_t hashed = inside_hash(table, protocol, inside_ip_be, inside_port_be)
    cdef uint32_t distance = 0
    cdef uint32_t id = slot_next(&table.outbound, hashed, &distance)
    cdef const mapping *entry
    while id != SLOT_NONE:
        entry = &table.entries[id]
        if (
            entry.inside_ip_be == inside_ip_be
            and entry.inside_port_be == inside_port_be
            and entry.protocol == protocol
        ):
            break
        id = slot_next(&table.outbound, hashed, &distance)
    return id


cdef inline uint32_t mapping_outbound(
    mapping_table *table, uint8_t protocol, uint32_t inside_ip_be, uint16_t inside_port_be, uint64_t machine_key,
    uint32_t now_s, uint8_t *why
) noexcept nogil:
    """The mapping for a packet of a guest's machine; MAPPING_NONE and in *why* the drop reason when there can be none.

    The caller goes on with `mapping_hold`, or gives it back with `mapping_forget`.
    """
    cdef uint32_t id = mapping_find(table, protocol, inside_ip_be, inside_port_be)
    if id != MAPPING_NONE:
        return id
    return mapping_create(table, protocol, inside_ip_be, inside_port_be, machine_key, now_s, why)


cdef inline uint32_t external_number(const mapping_table *table, uint32_t ip_be) noexcept nogil:
    """Which of our external addresses *ip_be* is, or EXTERNAL_NONE."""
    cdef uint32_t i
    for i in range(table.external_count):
        if table.externals_be[i] == ip_be:
            return i
    return EXTERNAL_NONE


cdef inline bint is_configured(const mapping_table *table, uint32_t ip_be) noexcept nogil:
    """Whether *ip_be* is an external address of ours, and not one that goes."""
    cdef uint32_t external = external_number(table, ip_be)
    return external != EXTERNAL_NONE and table.configured[external]


cdef inline uint32_t mapping_at(
    const mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port_be
) noexcept nogil:
    """The mapping that an external port is given to, dead or alive, or MAPPING_NONE."""
    cdef uint32_t external = external_number(table, external_ip_be)
    cdef uint32_t id
    if external == EXTERNAL_NONE:
        return MAPPING_NONE
    id = (external * PORT_SPACES + port_space(protocol)) << 16 | place_of(order_u16(external_port_be))
    return id if table.entries[id].flags & MAPPING_LIVE else MAPPING_NONE


cdef inline uint32_t mapping_inbound(
    const mapping_table *table, uint8_t protocol, uint32_t external_ip_be, uint16_t external_port_be
) noexcept nogil:
    """The mapping that packets from outside to this endpoint may open flows on, or MAPPING_NONE."""
    cdef uint32_t id = mapping_at(table, protocol, external_ip_be, external_port_be)
    if id != MAPPING_NONE and not mapping_alive(&table.entries[id]):
        return MAPPING_NONE
    return id


cdef inline bint mapping_admits(const mapping_table *table, uint32_t id, uint32_t remote_ip_be) noexcept nogil:
    """Whether a packet of no known flow may come in from *remote_ip_be* (RFC 4787 REQ-8)."""
    cdef const mapping *entry = &table.entries[id]
    if entry.flags & MAPPING_STATIC:
        return True
    if entry.strong == 0:
        return False
    if table.filter == FILTER_ADDRESS_DEPENDENT:
        return contact_find(&table.contacts, id, remote_ip_be) != CONTACT_NONE
    return table.filter == FILTER_ENDPOINT_INDEPENDENT


cdef inline bint place_is_held(const mapping_pool *pool, uint32_t place) noexcept nogil:
    """Whether the port is of a range, and neither free nor anybody's."""
    return bit_at(pool.ports.usable, place) and not (
        bit_at(pool.ports.free, place) or bit_at(pool.live, place)
    )
