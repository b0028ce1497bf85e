"""Flows and mappings as Python sees them."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.engine_state cimport nat_engine

cdef uint8_t protocol_of(name) except 0
cdef uint32_t address_be_of(text) except? 0
cdef uint32_t address_of(const nat_engine *engine, text) except? 0
cdef uint32_t address_held(nat_engine *engine, text) except? 0
cdef object guest_address(const nat_engine *engine, text)
cdef object flow_view(const nat_engine *engine, uint32_t flow)
cdef object mapping_view(const nat_engine *engine, uint32_t id)
