"""From one worker to another: see link.pyx."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.frame_queue cimport queued_frame
from arcbox_net.dataplane.port cimport Port, Receiver, port
from arcbox_net.memory.frame cimport BURST_MAX
from arcbox_net.memory.pool cimport PacketPool
from arcbox_net.memory.ring cimport LockFreeRing, ring_end

cdef struct link_port:
    port base
    ring_end *leaving
    uint32_t generation  # of the port that it stands for, in its worker

cdef struct link_end:
    port base
    ring_end *arriving
    queued_frame held[BURST_MAX]  # what rx_burst handed out


cdef class Link:
    cdef PacketPool pool
    cdef LockFreeRing ring


cdef class LinkPort(Port):
    cdef Link link


cdef class LinkEnd(Port):
    cdef Link link


cdef class LinkDelivery(Receiver):
    pass
