"""The struct of a TAP as a port. tap.pyx has its operations."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.port cimport Port
from arcbox_net.ports.queues cimport queue_port

cdef struct tap_port:
    queue_port queues  # first
    uint8_t *room  # what was read in this turn, frame behind frame
    uint32_t used  # bytes of it


cdef class TapPort(Port):
    pass
