"""External ports that nobody has and not everybody may get: they are on hold for the guest that had them.

Two lists in one array, by place: all ports of a pool that are on hold, and those of each guest, the longest held first.
"""

from libc.stdint cimport uint16_t, uint32_t

from arcbox_net.dataplane.port_pool cimport PLACE_NONE

cdef enum:
    HELD_ALL = 0
    HELD_OWN = 1  # of the same guest

cdef struct port_list:
    uint16_t first  # a place
    uint16_t last

cdef struct port_link:
    uint16_t next
    uint16_t previous

cdef struct port_hold:
    port_link links[2]  # HELD_ALL, HELD_OWN
    uint32_t since_s
    uint16_t guest  # GUEST_NONE: it was the operator's, and is nobody's

cdef struct hold_queue:
    port_hold *holds  # by place
    port_list all


cdef inline void list_append(port_hold *holds, uint32_t which, port_list *ports, uint16_t place) noexcept nogil:
    holds[place].links[which].next = PLACE_NONE
    holds[place].links[which].previous = ports.last
    if ports.last == PLACE_NONE:
        ports.first = place
    else:
        holds[ports.last].links[which].next = place
    ports.last = place


cdef inline void list_remove(port_hold *holds, uint32_t which, port_list *ports, uint16_t place) noexcept nogil:
    cdef port_link link = holds[place].links[which]
    if link.previous == PLACE_NONE:
        ports.first = link.next
    else:
        holds[link.previous].links[which].next = link.next
    if link.next == PLACE_NONE:
        ports.last = link.previous
    else:
        holds[link.next].links[which].previous = link.previous


cdef inline void hold_begin(
    hold_queue *queue, port_list *own, uint16_t place, uint16_t guest, uint32_t now_s
) noexcept nogil:
    """*own* are the holds of *guest*, or NULL when nobody is to have the port back."""
    queue.holds[place].since_s = now_s
    queue.holds[place].guest = guest
    list_append(queue.holds, HELD_ALL, &queue.all, place)
    if own != NULL:
        list_append(queue.holds, HELD_OWN, own, place)


cdef inline void hold_end(hold_queue *queue, port_list *own, uint16_t place) noexcept nogil:
    list_remove(queue.holds, HELD_ALL, &queue.all, place)
    if own != NULL:
        list_remove(queue.holds, HELD_OWN, own, place)
