"""Places of one table that guests fill: nobody has more of them than are left for all others.

A greedy guest alone gets half of the places, two get a third each, and who comes then finds another third free. Those
who take are their port, or, of guests behind one port, a MAC there. They are interned as long as they have a place, and
their holds are the places that they have; more than SHARERS_MAX at a time get none.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.address_table cimport (
    ADDRESS_NONE, address_entry, address_find, address_release, address_table, address_table_free, address_table_init,
    address_take,
)
from arcbox_net.dataplane.port cimport PORTS_MAX

cdef enum:
    BEHIND_MAX = 1 << 10  # guests behind a port: as many as a bridge has ports
    SHARERS_MAX = PORTS_MAX + BEHIND_MAX
    SHARE_NONE = ADDRESS_NONE

cdef struct sharer:
    uint64_t port
    uint64_t mac  # 0: the port is one guest's

cdef struct shares:
    uint32_t places
    uint32_t taken
    address_table sharers  # by the bytes of a `sharer`


cdef inline bint shares_init(shares *s, uint32_t places, const uint64_t *seed) noexcept nogil:
    """No place is taken. False without memory; `shares_free` is due all the same."""
    s.places = places
    s.taken = 0
    return address_table_init(&s.sharers, SHARERS_MAX, seed)


cdef inline void shares_free(shares *s) noexcept nogil:
    address_table_free(&s.sharers)


cdef inline uint32_t share_take(shares *s, const sharer *who) noexcept nogil:
    """A place for *who*, to give back; SHARE_NONE: it has its share."""
    cdef uint32_t share = address_find(&s.sharers, <const uint8_t *>who)
    cdef uint32_t has = 0 if share == ADDRESS_NONE else address_entry(&s.sharers, share).holders
    if has >= s.places - s.taken:
        return SHARE_NONE
    share = address_take(&s.sharers, <const uint8_t *>who)
    if share != ADDRESS_NONE:
        s.taken += 1
    return share


cdef inline void share_give_back(shares *s, uint32_t share) noexcept nogil:
    """*share* is a place again; SHARE_NONE was none."""
    if share != SHARE_NONE:
        address_release(&s.sharers, share)
        s.taken -= 1
