"""The switch as its worker sees it: a receiver that every port of the network sends to."""

from arcbox_net.dataplane.port cimport Receiver
from arcbox_net.dataplane.switch_state cimport switch_state


cdef class Switch(Receiver):
    cdef switch_state *state
    cdef object reading  # of the listing: one thread at a time
