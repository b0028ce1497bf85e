"""Packets that are no plain ones of a known flow."""

from libc.stdint cimport uint8_t

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.packet cimport packet
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame

cdef uint8_t nat_slow(
    nat_engine *engine, frame *whole, packet *found, uint8_t kind, Direction direction
) noexcept nogil
