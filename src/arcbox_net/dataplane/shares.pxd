"""Places of one table that guests fill: nobody has more of them than are left for all others.

A greedy guest alone gets half of the places, two get a third each, and who comes then finds another third free.
"""

from libc.stdint cimport uint16_t, uint32_t

from arcbox_net.dataplane.port cimport PORTS_MAX

cdef enum:
    SHARE_NONE = PORTS_MAX  # instead of a port: a place that is not counted

cdef struct shares:
    uint32_t places
    uint32_t taken
    uint32_t taken_by[PORTS_MAX]


cdef inline bint share_take(shares *s, uint16_t port) noexcept nogil:
    """Whether *port* gets one more place."""
    if port >= PORTS_MAX:
        return True
    if s.taken_by[port] >= s.places - s.taken:
        return False
    s.taken_by[port] += 1
    s.taken += 1
    return True


cdef inline void share_give_back(shares *s, uint16_t port) noexcept nogil:
    if port < PORTS_MAX:
        s.taken_by[port] -= 1
        s.taken -= 1
