"""Places of one table that guests fill: nobody has more of them than are left for all others.

A greedy guest alone gets half of the places, two get a third each, and who comes then finds another third free. Those
who take are known by a number: that of their port, or, of guests behind one port, one of a few more.
"""

from libc.stdint cimport uint16_t, uint32_t

from arcbox_net.dataplane.port cimport PORTS_MAX

cdef enum:
    SHARES_BEHIND = 64
    SHARES_MAX = PORTS_MAX + SHARES_BEHIND
    SHARE_NONE = SHARES_MAX  # of a place that is not counted

cdef struct shares:
    uint32_t places
    uint32_t taken
    uint32_t taken_by[SHARES_MAX]


cdef inline bint share_take(shares *s, uint16_t who) noexcept nogil:
    """Whether *who* gets one more place."""
    if who == SHARE_NONE:
        return True
    if s.taken_by[who] >= s.places - s.taken:
        return False
    s.taken_by[who] += 1
    s.taken += 1
    return True


cdef inline void share_give_back(shares *s, uint16_t who) noexcept nogil:
    if who != SHARE_NONE:
        s.taken_by[who] -= 1
        s.taken -= 1
