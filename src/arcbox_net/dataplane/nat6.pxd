"""IPv6 packets through the NAT; nat6.pyx translates them."""

from libc.stdint cimport uint8_t

from arcbox_net.dataplane.engine_state cimport nat_engine
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame


cdef uint8_t nat6_translate(nat_engine *engine, frame *whole, Direction direction) noexcept nogil
