"""The struct of a vmnet interface as a port. port.pyx has its operations."""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport Port, port
from arcbox_net.ports.vmnet.interface cimport VmnetInterface
from arcbox_net.abi.vmnet cimport abx_vmnet, abx_vmnet_packet

cdef enum:
    VMNET_BATCH = 64  # packets in one call at most
    VMNET_WRITE_BYTES = 256 * 1024  # in one call at most; the system takes no more
    REPORT_VMNET_STATUS = 200

cdef struct vmnet_port:
    port base  # first
    abx_vmnet *interface
    int signal_fd
    bint virtio_headers
    uint32_t failed  # the status that reads ended with, reported once
    uint32_t read_max
    uint32_t write_max
    uint32_t packet_bytes  # the largest that is read, its virtio-net header included
    uint32_t slot_bytes
    uint8_t *room  # read_max slots
    abx_vmnet_packet incoming[VMNET_BATCH]
    iovec incoming_vectors[VMNET_BATCH]
    abx_vmnet_packet outgoing[VMNET_BATCH]
    iovec outgoing_vectors[VMNET_BATCH]
    uint8_t *gathered  # VMNET_WRITE_BYTES: packets that came in pieces


cdef class VmnetPort(Port):
    cdef readonly VmnetInterface interface
