"""`NatEngine` as compiled stages see it: `state` lives as long as the object and is not closed."""

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.flow_filter cimport flow_filter


cdef class NatEngine:
    cdef nat_engine *state
    cdef readonly object config
    cdef list _forwards

    cdef nat_engine *_open(self) except NULL
    cdef _sweep(self, const flow_filter *wanted)
