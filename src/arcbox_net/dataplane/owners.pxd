"""Whose IPv6 addresses are: guests choose their own, and the first to use one has it (RFC 4862 5.4, "first come").

Static owners come with a binding. Others lose an address OWNED_FOR_S after they last used it. The limit of each port
keeps the table from ever being full: nobody can use up what another port may still claim.
An owner that has just probed for duplicates is not sure of the address yet, and would give it up if it heard another's
probe (RFC 4862 5.4.3): it is remembered for as long as that may be.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport ADDRESS_ID_MASK, ADDRESS_NONE, address_find, address_table
from arcbox_net.dataplane.notices cimport notice_due
from arcbox_net.dataplane.port cimport PORTS_MAX
from arcbox_net.wire.octets cimport load_u32

cdef enum:
    OWNED_PORT_MAX = 96  # addresses of a port: eight temporary ones in each of several prefixes, and then some
    OWNED_MAX = OWNED_PORT_MAX * PORTS_MAX
    OWNED_FOR_S = 600
    OWNED_STATIC = 0  # as the second in which an address was used
    TENTATIVE_S = 4  # three whole seconds: one probe is usual, a second after which the address is taken

cdef struct owner:
    uint32_t used_s  # ahead of the clock by what a notice lasts, at most
    uint32_t probed_s  # when it last looked for duplicates; 0: never
    uint16_t port

cdef struct owner_table:
    address_table addresses
    owner *owners  # by the address's number
    uint32_t cursor  # of ageing
    uint32_t counts[PORTS_MAX]


cdef bint owners_init(owner_table *table, const uint64_t *seed) noexcept nogil
cdef void owners_free(owner_table *table) noexcept nogil
cdef bint owners_claim(owner_table *table, const uint8_t *address, uint16_t port, uint32_t now_s) noexcept nogil
cdef bint owners_assign(owner_table *table, const uint8_t *address, uint16_t port) noexcept nogil
cdef void owners_hear(
    owner_table *table, const uint8_t *address, uint16_t port, uint32_t used_s, uint32_t now_s
) noexcept nogil
cdef void owners_loosen_port(owner_table *table, uint16_t port, uint32_t now_s) noexcept nogil
cdef void owners_forget_port(owner_table *table, uint16_t port) noexcept nogil
cdef void owners_age(owner_table *table, uint32_t now_s, uint32_t budget) noexcept nogil


cdef inline owner *owners_find(const owner_table *table, const uint8_t *address) noexcept nogil:
    """Who has the 16 bytes at *address*, or NULL."""
    cdef uint32_t number_be = address_find(&table.addresses, address)
    if number_be == ADDRESS_NONE:
        return NULL
    return &table.owners[load_u32(<const uint8_t *>&number_be) & ADDRESS_ID_MASK]


cdef inline bint owner_uses(owner *one, uint32_t now_s) noexcept nogil:
    """Its port uses the address. Whether others are to be told."""
    cdef bint news = one.used_s != OWNED_STATIC and notice_due(one.used_s, now_s)
    if one.used_s != OWNED_STATIC:
        one.used_s = max(one.used_s, now_s)
    return news


cdef inline bint owner_is_tentative(const owner *one, uint32_t now_s) noexcept nogil:
    """Whether its node may still be waiting for somebody to say that it has the address."""
    return one.probed_s != 0 and now_s - one.probed_s < TENTATIVE_S
