"""A burst through the NAT: the C interface of workers and of `NatEngine.translate`."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame

cdef void nat_burst(
    nat_engine *engine, frame *frames, uint32_t count, Direction direction, uint64_t now_ns, uint8_t *verdicts
) noexcept nogil
cdef uint32_t nat_expire(nat_engine *engine, uint64_t now_ns, uint32_t budget) noexcept nogil
