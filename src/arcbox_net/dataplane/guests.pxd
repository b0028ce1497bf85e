"""The guests of one engine: what each holds of the tables that all share, and how much that may be.

A guest is an inside address. It is known as long as it holds anything; who takes something for a guest that
`guest_open` has just made, or takes the last thing from one, calls `guest_settle`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport address_table
from arcbox_net.dataplane.port_hold cimport port_list
from arcbox_net.dataplane.slot_index cimport slot_index

cdef enum:
    GUESTS_MAX = 4096
    GUEST_NONE = 0xFFFF
    EXTERNALS_MAX = 64
    EXTERNAL_NONE = 0xFF

    # Spaces of external L4 numbers.
    SPACE_TCP = 0
    SPACE_UDP = 1
    SPACE_ICMP = 2  # query identifiers
    PORT_SPACES = 3

cdef struct guest_quotas:
    uint32_t flows
    uint32_t ports  # of each space; 0: a share of its external address's (`POOL_SHARE`)

cdef struct guest:
    uint32_t ip_be
    uint32_t flows  # that it opened
    uint32_t incoming  # that others opened to it
    uint32_t statics  # mappings that the operator made for it
    uint32_t ports[PORT_SPACES]  # with a mapping of its own doing, or on hold
    port_list held[PORT_SPACES]  # the ones on hold, of its external address
    uint16_t next_free
    uint8_t external  # the address that it has outside, for as long as it is known; or EXTERNAL_NONE

cdef struct guest_table:
    guest *entries  # GUESTS_MAX
    slot_index index
    uint64_t seed[2]
    guest_quotas quotas
    address_table *addresses  # of IPv6 guests, each held while it is known; or NULL
    uint16_t first_free
    uint32_t count
    uint32_t paired[EXTERNALS_MAX]  # guests by external address


cdef bint guests_init(guest_table *table, const guest_quotas *quotas, const uint64_t *seed) noexcept nogil
cdef void guests_free(guest_table *table) noexcept nogil
cdef uint16_t guest_find(const guest_table *table, uint32_t ip_be) noexcept nogil
cdef uint16_t guest_open(guest_table *table, uint32_t ip_be) noexcept nogil
cdef void guest_pair(guest_table *table, uint16_t id, uint8_t external) noexcept nogil
cdef void guest_settle(guest_table *table, uint16_t id) noexcept nogil


cdef inline bint guest_flow_take(guest_table *table, uint16_t id, bint incoming) noexcept nogil:
    """Count one more flow; False at the quota. Flows with a mapping are counted by `mapping_hold`.

    What others open to a guest takes nothing of what it may open itself, and is limited to half as much.
    """
    cdef guest *who = &table.entries[id]
    if incoming:
        if who.incoming >= (table.quotas.flows + 1) // 2:
            return False
        who.incoming += 1
        return True
    if who.flows >= table.quotas.flows:
        return False
    who.flows += 1
    return True


cdef inline void guest_flow_drop(guest_table *table, uint16_t id, bint incoming) noexcept nogil:
    if incoming:
        table.entries[id].incoming -= 1
    else:
        table.entries[id].flows -= 1
    guest_settle(table, id)
