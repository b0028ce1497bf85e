"""A port whose peer is Python code: see _testing_port.pyx."""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.frame_queue cimport queued_frame
from arcbox_net.dataplane.port cimport FRAME_PARTS_MAX, Port, port
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.pool cimport PacketPool
from arcbox_net.memory.ring cimport LockFreeRing, ring_end

cdef struct testing_port:
    port base
    ring_end *arriving
    ring_end *leaving
    uint32_t part_bytes  # how the rest of a frame is cut up; 0: it all is in the head
    uint32_t held_count
    queued_frame held[BURST_MAX]  # what rx_burst handed out
    iovec parts[BURST_MAX][FRAME_PARTS_MAX]
    uint64_t flushes
    uint64_t ticks
    uint64_t events
    uint64_t closes


cdef class TestingPort(Port):
    cdef readonly PacketPool pool
    cdef LockFreeRing arriving
    cdef LockFreeRing leaving
