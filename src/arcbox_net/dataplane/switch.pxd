"""The switch as its worker sees it: a receiver that every port of the network sends to."""

from arcbox_net.dataplane.port cimport Receiver
from arcbox_net.dataplane.switch_state cimport switch_state
from arcbox_net.memory.ring cimport LockFreeRing


cdef class Switch(Receiver):
    cdef switch_state *state
    cdef object reading  # of the listing: one thread at a time
    cdef list rings  # to the switches of other workers, and from them

    cdef void _join(self, LockFreeRing telling, LockFreeRing hearing)
