"""Flows and mappings as Python sees them."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.engine_state cimport nat_engine

cdef object flow_view(const nat_engine *engine, uint32_t flow)
cdef object mapping_view(const nat_engine *engine, uint32_t id)
