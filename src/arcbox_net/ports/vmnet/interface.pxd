"""A started interface, as a port of the same worker sees it."""

from libc.stdint cimport uint32_t

from arcbox_net.abi.vmnet cimport abx_vmnet, abx_vmnet_forward, abx_vmnet_network, abx_vmnet_packet

ctypedef uint32_t (*forward_change)(abx_vmnet *, const abx_vmnet_forward *) noexcept nogil


cdef class VmnetNetwork:
    cdef abx_vmnet_network *network
    cdef readonly object options
    cdef object _make(self, forwards, reservations, dhcp)


cdef class VmnetInterface:
    cdef abx_vmnet *interface
    cdef object control  # the lock of a call
    cdef int signal_read
    cdef int signal_write
    cdef readonly object options
    cdef readonly object facts
    cdef readonly VmnetNetwork network
    cdef abx_vmnet *_running(self) except NULL
    cdef int _change(self, forward_change change, rule, operation) except -1
    cdef int _end(self, uint32_t status) except -1


cdef uint32_t interface_read(abx_vmnet *interface, abx_vmnet_packet *packets, int *count) noexcept nogil
cdef uint32_t interface_write(abx_vmnet *interface, abx_vmnet_packet *packets, int *count) noexcept nogil
