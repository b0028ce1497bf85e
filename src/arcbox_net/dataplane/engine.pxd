"""`NatEngine` as compiled stages see it: `state` lives as long as the object and is not closed."""

from arcbox_net.dataplane.engine_state cimport nat_engine


cdef class NatEngine:
    cdef nat_engine *state
    cdef readonly object config

    cdef nat_engine *_open(self) except NULL
