"""A wire from port to port: see _testing_patch.pyx."""

from libc.stdint cimport uint16_t

from arcbox_net.dataplane.port cimport PORTS_MAX, Receiver, receiver

cdef struct patch:
    receiver base
    uint16_t to[PORTS_MAX]  # by the number of the port that received: the one that sends


cdef class Patch(Receiver):
    pass
