"""Which MAC address the neighbours of one side have: those that are known, and those that are sought.

Theory of operation
    Keys have 16 bytes: an IPv6 address, or an IPv4 address as ::ffff:a.b.c.d.

    state        MAC      leaves it
    SOUGHT       -        heard → KNOWN; NEIGHBOUR_PROBES requests without an answer → UNREACHABLE, or gone
    KNOWN        last     heard → KNOWN; in use and not heard for NEIGHBOUR_FRESH_S: asked as a sought one, used
                          meanwhile; not used for NEIGHBOUR_UNUSED_S → gone
    UNREACHABLE  -        heard → KNOWN; NEIGHBOUR_REFUSED_S → gone

    What control has `told` is so until control says otherwise: such a neighbour is not asked, nor heard.

    When all are in doubt, because the link may be another one, they are as if they had not been heard for long.

    One by the leg is not asked, so it stays KNOWN for as long as a TCP connection to it may be silent.

    Who sends asks `neighbour_is_due` ten times a second and sends the requests.

    Each entry is the guest's whose frame made it, and counts among its share of the table: a guest that scans a prefix
    leaves places for what the others seek.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.address_table cimport ADDRESS_ID_MASK, ADDRESS_NONE, address_find, address_table
from arcbox_net.dataplane.shares cimport sharer, shares
from arcbox_net.wire.ethernet cimport MAC_BYTES
from arcbox_net.wire.octets cimport load_u32

cdef enum:
    NEIGHBOUR_PROBES = 3  # a second apart
    NEIGHBOUR_FRESH_S = 60
    NEIGHBOUR_REFUSED_S = 3  # then it is asked again
    NEIGHBOUR_UNUSED_S = 300
    NEIGHBOUR_BY_LEG_UNUSED_S = 7440 + 300  # NatEngineConfig.tcp_established_timeout_s, and its last probe's answer

cdef enum:  # neighbour.state
    NEIGHBOUR_SOUGHT = 0
    NEIGHBOUR_KNOWN = 1
    NEIGHBOUR_UNREACHABLE = 2

cdef struct neighbour:
    uint8_t mac[MAC_BYTES]
    uint8_t state
    uint8_t probes  # since it was last heard
    bint told  # by control
    bint by_leg  # its frames go by the router's leg on the bridge, and not by the switch
    uint32_t share  # the place of who made it
    uint32_t heard_s
    uint32_t used_s
    uint32_t probed_s

cdef struct neighbour_table:
    address_table addresses
    neighbour *entries  # by the address's number
    uint32_t entries_max
    shares made  # entries by who made them
    uint32_t unreachable  # entries in that state
    uint32_t cursor


cdef bint neighbours_init(
    neighbour_table *table, uint32_t shared_max, uint32_t reserved, const uint64_t *seed
) noexcept nogil
cdef void neighbours_free(neighbour_table *table) noexcept nogil
cdef neighbour *neighbours_seek(
    neighbour_table *table, const uint8_t *key, const sharer *made_by, uint32_t now_s
) noexcept nogil
cdef neighbour *neighbours_tell(
    neighbour_table *table, const uint8_t *key, uint8_t state, const uint8_t *mac
) noexcept nogil
cdef void neighbour_enter(neighbour_table *table, neighbour *one, uint8_t state) noexcept nogil
cdef void neighbours_forget(neighbour_table *table, uint32_t id) noexcept nogil
cdef void neighbours_doubt(neighbour_table *table, uint32_t now_s) noexcept nogil
cdef bint neighbour_is_due(neighbour *one, uint32_t now_s) noexcept nogil
cdef bint neighbour_is_over(const neighbour *one, uint32_t now_s) noexcept nogil


cdef inline void neighbour_key4(uint8_t *key, uint32_t address_be) noexcept nogil:
    memset(key, 0, 10)
    key[10] = key[11] = 0xFF
    memcpy(key + 12, &address_be, 4)


cdef inline bint neighbour_is_key4(const uint8_t *key) noexcept nogil:
    return load_u32(key + 8) == 0xFFFF and load_u32(key) == 0 and load_u32(key + 4) == 0


cdef inline neighbour *neighbours_find(const neighbour_table *table, const uint8_t *key) noexcept nogil:
    cdef uint32_t number_be = address_find(&table.addresses, key)
    if number_be == ADDRESS_NONE:
        return NULL
    return &table.entries[load_u32(<const uint8_t *>&number_be) & ADDRESS_ID_MASK]


cdef inline void neighbour_hear(
    neighbour_table *table, neighbour *one, const uint8_t *mac, uint32_t now_s
) noexcept nogil:
    """It said what its MAC is."""
    if not one.told:
        memcpy(one.mac, mac, MAC_BYTES)
        neighbour_enter(table, one, NEIGHBOUR_KNOWN)
        one.probes = 0
        one.heard_s = now_s
