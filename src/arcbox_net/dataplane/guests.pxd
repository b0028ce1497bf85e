"""The guests of one engine: what each holds of the tables that all share, and how much that may be.

A guest is an inside address of a machine (machine.pxd). It is known as long as it holds anything; who takes something
for a guest that `guest_open` has just made, or takes the last thing from one, calls `guest_settle`. What is limited
is limited for the machine with all its addresses, and the number of these too.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport address_is_interned, address_table
from arcbox_net.dataplane.port_hold cimport port_list
from arcbox_net.dataplane.slot_index cimport slot_index

cdef enum:
    GUESTS_MAX = 4096
    MACHINE_GUESTS_MAX = 64  # addresses of a machine: eight temporary ones in each of several prefixes, and then some
    GUEST_NONE = 0xFFFF
    EXTERNALS_MAX = 64
    EXTERNAL_NONE = 0xFF

    # Spaces of external L4 numbers.
    SPACE_TCP = 0
    SPACE_UDP = 1
    SPACE_ICMP = 2  # query identifiers
    PORT_SPACES = 3

cdef enum flow_payer:  # whose quota a flow of a guest takes of
    PAID_BY_GUEST = 0  # it opened the flow
    PAID_AS_INCOMING = 1  # somebody outside did
    PAID_BY_OTHER = 2  # another guest did, of its own quota

cdef struct guest_quotas:
    uint32_t flows
    uint32_t ports  # of each space; 0: a share of its external address's (`POOL_SHARE`)

cdef struct guest:
    uint64_t machine_key
    uint32_t ip_be
    uint32_t statics  # mappings that the operator made for it
    uint32_t ports[PORT_SPACES]  # with a mapping of its own doing, or on hold
    port_list held[PORT_SPACES]  # the ones on hold, of its external address
    uint16_t next_free
    uint16_t machine
    uint8_t external  # the address that it has outside, for as long as it is known; or EXTERNAL_NONE

cdef struct machine:
    uint64_t key
    uint32_t flows  # that it opened
    uint32_t incoming  # that were opened from outside
    uint32_t ports[2][PORT_SPACES]  # of its guests, by IP version: each has external ports of its own
    uint16_t guests
    uint16_t next_free

cdef struct guest_table:
    guest *entries  # GUESTS_MAX
    machine *machines  # GUESTS_MAX
    slot_index index
    slot_index machine_index
    uint64_t seed[2]
    guest_quotas quotas
    address_table *addresses  # of IPv6 guests, each held while it is known; or NULL
    uint16_t first_free
    uint16_t first_free_machine
    uint32_t count
    uint32_t paired[EXTERNALS_MAX]  # guests by external address


cdef bint guests_init(guest_table *table, const guest_quotas *quotas, const uint64_t *seed) noexcept nogil
cdef void guests_free(guest_table *table) noexcept nogil
cdef uint16_t guest_find(const guest_table *table, uint32_t ip_be, uint64_t machine_key) noexcept nogil
cdef uint16_t guest_open(guest_table *table, uint32_t ip_be, uint64_t machine_key, uint8_t *why) noexcept nogil
cdef void guest_pair(guest_table *table, uint16_t id, uint8_t external) noexcept nogil
cdef void guest_settle(guest_table *table, uint16_t id) noexcept nogil


cdef inline machine *guest_machine(const guest_table *table, uint16_t id) noexcept nogil:
    return &table.machines[table.entries[id].machine]


cdef inline uint32_t *guest_machine_ports(const guest_table *table, uint16_t id, uint32_t space) noexcept nogil:
    """The ports of a space that the guest's machine has, with all its addresses of the guest's IP version."""
    return &guest_machine(table, id).ports[address_is_interned(table.entries[id].ip_be)][space]


cdef inline void guest_port_take(guest_table *table, uint16_t id, uint32_t space) noexcept nogil:
    table.entries[id].ports[space] += 1
    guest_machine_ports(table, id, space)[0] += 1


cdef inline void guest_port_drop(guest_table *table, uint16_t id, uint32_t space) noexcept nogil:
    """The caller settles the guest if that was the last thing it held."""
    table.entries[id].ports[space] -= 1
    guest_machine_ports(table, id, space)[0] -= 1


cdef inline bint guest_flow_take(guest_table *table, uint16_t id, flow_payer payer) noexcept nogil:
    """Count one more flow; False at the quota. The guest is known meanwhile: it holds the port of the flow's mapping.

    What comes from outside takes nothing of what a guest may open itself, and is limited to half as much.
    """
    cdef machine *of = guest_machine(table, id)
    if payer == PAID_BY_GUEST:
        if of.flows >= table.quotas.flows:
            return False
        of.flows += 1
    elif payer == PAID_AS_INCOMING:
        if of.incoming >= (table.quotas.flows + 1) // 2:
            return False
        of.incoming += 1
    return True


cdef inline void guest_flow_drop(guest_table *table, uint16_t id, flow_payer payer) noexcept nogil:
    if payer == PAID_BY_GUEST:
        guest_machine(table, id).flows -= 1
    elif payer == PAID_AS_INCOMING:
        guest_machine(table, id).incoming -= 1
