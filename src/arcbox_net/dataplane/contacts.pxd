"""Which remote addresses each mapping has spoken to, and in how many flows: whom address-dependent filtering admits.

Only flows of the guest's own doing count. There is at most one contact for each of them, so a table for as many
contacts as the engine has flows is never full; were it full, a new address would not be admitted.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    CONTACT_NONE = 0xFFFFFFFF

cdef struct contact:
    uint32_t mapping
    uint32_t remote_ip_be
    uint32_t flows
    uint32_t next_free

cdef struct contact_table:
    contact *entries
    uint32_t contacts_max  # 0: nobody asks, nothing is kept
    uint32_t used  # entries that were ever given out
    uint32_t first_free
    uint64_t seed
