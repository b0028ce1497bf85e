"""The struct of a packet socket as a port. packet.pyx has its operations."""

from libc.stdint cimport uint8_t

from arcbox_net.abi.socket cimport iovec, mmsghdr
from arcbox_net.dataplane.port cimport Port
from arcbox_net.ports.frames cimport FRAME_VECTORS_MAX
from arcbox_net.ports.queues cimport queue_port

cdef enum:
    PACKET_BATCH = 16  # frames in one system call
    PACKET_VECTORS_MAX = 1 + FRAME_VECTORS_MAX

cdef struct packet_port:
    queue_port queues  # first
    uint8_t *room  # PACKET_BATCH frames
    mmsghdr incoming[PACKET_BATCH]
    iovec incoming_vectors[PACKET_BATCH][2]
    mmsghdr outgoing[PACKET_BATCH]
    iovec outgoing_vectors[PACKET_BATCH][PACKET_VECTORS_MAX]


cdef class PacketPort(Port):
    pass
