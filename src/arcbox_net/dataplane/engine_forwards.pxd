"""A `NatForward` in an engine's tables."""

from arcbox_net.dataplane.engine_state cimport nat_engine

cdef int forward_add(nat_engine *engine, forward) except -1
cdef void forward_remove(nat_engine *engine, forward)
cdef void forward_gone(nat_engine *engine, forward)
cdef int forwards_check(forwards, config) except -1
