"""New flows, and flows that are not yet the guest's own doing."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.memory.frame cimport frame

cdef uint8_t nat_admit(nat_engine *engine, const frame *whole, packet *found) noexcept nogil
cdef void nat_flow_gone(void *engine, uint32_t flow) noexcept nogil
