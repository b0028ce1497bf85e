"""A vmnet interface as a port of a worker: packets are read and written in batches, as many as the system takes.

From macOS 15.4 on each packet has a virtio-net header, so super-frames and unfinished checksums pass as they are.
Before, frames are bare: the worker cuts and completes them ahead of `tx_burst`, and what is read gets a header of
zeros. The system refuses packets of more than one buffer (QEMU met VMNET_INVALID_ARGUMENT), so that a frame which is in
pieces is copied into one.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

from arcbox_net.abi.poller cimport POLL_EDGE, POLL_READ
from arcbox_net.abi.wakeup cimport abx_wakeup_clear
from arcbox_net.dataplane.port cimport (
    PORT_DROP_FULL, PORT_DROP_KERNEL, PORT_DROP_TOO_BIG, PORT_READY, PORT_UP, TAKES_CSUM, TAKES_ECN,
    TAKES_TSO4, TAKES_TSO6, Port, port, port_drop, port_frame, port_ops, port_sent,
)
from arcbox_net.dataplane.worker cimport worker_report, worker_unwatch, worker_watch
from arcbox_net.memory.frame cimport FRAME_VNET_BYTES
from arcbox_net.memory.pool cimport BUFFER_FRAME_OFFSET
from arcbox_net.ports.frames cimport frame_received
from arcbox_net.ports.vmnet.interface cimport VmnetInterface, interface_read, interface_write
from arcbox_net.wire.ethernet cimport ETHERNET_HEADER_BYTES

from arcbox_net.errors import ConfigError, NotRunning

cdef enum:
    ROOM_BYTES = 1024 * 1024  # for one burst: fewer packets at once where they may be large
    PACKET_BYTES_MAX = 256 * 1024  # that the system may say; frames above FRAME_BYTES_MAX are dropped
    CACHE_LINE_BYTES = 64
    # vmnet_return_t
    SUCCESS = 1000
    PACKET_TOO_BIG = 1006
    BUFFER_EXHAUSTED = 1007
    TOO_MANY_PACKETS = 1008

STATUS = REPORT_VMNET_STATUS  # value: the vmnet_return_t that packets are refused with

cdef port_ops vmnet_ops


cdef int vmnet_open(port *self) noexcept nogil:
    cdef vmnet_port *vmnet = <vmnet_port *>self
    cdef int error = worker_watch(self, vmnet.signal_fd, POLL_READ | POLL_EDGE, 0)
    if error == 0:
        self.flags |= PORT_UP | PORT_READY  # packets may have come before
    return error


cdef void vmnet_close(port *self) noexcept nogil:
    worker_unwatch(self, (<vmnet_port *>self).signal_fd)
    self.flags &= ~(PORT_UP | PORT_READY)


cdef void vmnet_event(port *self, uint32_t tag, uint32_t events) noexcept nogil:
    abx_wakeup_clear((<vmnet_port *>self).signal_fd)
    self.flags |= PORT_READY


cdef uint32_t vmnet_rx_burst(port *self, port_frame *frames, uint32_t budget) noexcept nogil:
    cdef vmnet_port *vmnet = <vmnet_port *>self
    cdef int count = <int>min(budget, vmnet.read_max)
    cdef uint32_t i, status, n = 0
    cdef ssize_t size
    cdef uint8_t *data
    for i in range(<uint32_t>count):
        vmnet.incoming[i].size = vmnet.packet_bytes
        vmnet.incoming_vectors[i].iov_len = vmnet.packet_bytes
    status = interface_read(vmnet.interface, vmnet.incoming, &count)
    if status != SUCCESS:
        _failed(vmnet, status)
        return 0
    for i in range(min(<uint32_t>max(count, 0), vmnet.read_max)):
        data = _slot(vmnet, i)
        size = <ssize_t>min(vmnet.incoming[i].size, <size_t>vmnet.packet_bytes)
        if vmnet.virtio_headers:
            size -= FRAME_VNET_BYTES
        else:
            memset(data - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
        if frame_received(self, &frames[n], data, size):
            n += 1
    if count > 0:
        vmnet.failed = 0
        self.flags |= PORT_READY  # whatever was dropped
    return n


cdef void vmnet_rx_release(port *self, port_frame *frames, uint32_t count) noexcept nogil:
    pass  # slots are the port's own until it reads again


cdef void vmnet_tx_burst(port *self, port_frame **frames, uint32_t count) noexcept nogil:
    cdef vmnet_port *vmnet = <vmnet_port *>self
    cdef uint32_t taken, at = 0
    while at < count:
        taken = _send(vmnet, frames + at, min(count - at, vmnet.write_max))
        at += taken


cdef void vmnet_tx_flush(port *self) noexcept nogil:
    pass


vmnet_ops.open = vmnet_open
vmnet_ops.close = vmnet_close
vmnet_ops.event = vmnet_event
vmnet_ops.rx_burst = vmnet_rx_burst
vmnet_ops.rx_release = vmnet_rx_release
vmnet_ops.tx_burst = vmnet_tx_burst
vmnet_ops.tx_flush = vmnet_tx_flush


cdef class VmnetPort(Port):
    """*interface* runs, and is stopped after the port has left its worker. Raises NotRunning if it is stopped."""

    def __cinit__(self, VmnetInterface interface not None):
        cdef vmnet_port *vmnet = <vmnet_port *>calloc(1, sizeof(vmnet_port))
        if vmnet == NULL:
            raise MemoryError
        self.base = &vmnet.base
        if interface.interface == NULL:
            raise NotRunning("the interface is stopped", network=None)
        self.interface = interface
        vmnet.interface = interface.interface
        vmnet.signal_fd = interface.signal_read
        _set_limits(vmnet, interface.facts)
        vmnet.base.ops = &vmnet_ops
        if posix_memalign(<void **>&vmnet.room, CACHE_LINE_BYTES, <size_t>vmnet.read_max * vmnet.slot_bytes) != 0:
            raise MemoryError
        if posix_memalign(<void **>&vmnet.gathered, CACHE_LINE_BYTES, VMNET_WRITE_BYTES) != 0:
            raise MemoryError
        _lay_out(vmnet)

    def __dealloc__(self):
        if self.base != NULL:
            free((<vmnet_port *>self.base).room)
            free((<vmnet_port *>self.base).gathered)


cdef int _set_limits(vmnet_port *vmnet, facts) except -1:
    frame_bytes = facts.max_packet_bytes
    if not ETHERNET_HEADER_BYTES < frame_bytes <= PACKET_BYTES_MAX:
        raise ConfigError("vmnet's packets have no such size", field="max_packet_bytes", value=frame_bytes)
    if facts.checksums:
        raise ConfigError("frames without their checksums are for no switch", field="checksums", value=True)
    vmnet.virtio_headers = facts.virtio_headers
    vmnet.packet_bytes = frame_bytes + (FRAME_VNET_BYTES if facts.virtio_headers else 0)
    vmnet.slot_bytes = (BUFFER_FRAME_OFFSET + frame_bytes + CACHE_LINE_BYTES - 1) // CACHE_LINE_BYTES * CACHE_LINE_BYTES
    vmnet.read_max = max(1, min(VMNET_BATCH, facts.read_max_packets or VMNET_BATCH, ROOM_BYTES // vmnet.slot_bytes))
    vmnet.write_max = max(1, min(VMNET_BATCH, facts.write_max_packets or VMNET_BATCH))
    vmnet.base.frame_max = facts.mtu + ETHERNET_HEADER_BYTES
    if facts.virtio_headers:
        vmnet.base.takes = TAKES_CSUM | (TAKES_TSO4 | TAKES_TSO6 | TAKES_ECN if facts.tso else 0)
    return 0


cdef void _lay_out(vmnet_port *vmnet) noexcept:
    """Say once where each packet of a batch lies."""
    cdef uint32_t i
    cdef uint8_t *data
    for i in range(vmnet.read_max):
        data = _slot(vmnet, i)
        vmnet.incoming_vectors[i].iov_base = data - FRAME_VNET_BYTES if vmnet.virtio_headers else data
        vmnet.incoming[i].vectors = &vmnet.incoming_vectors[i]
        vmnet.incoming[i].vector_count = 1
    for i in range(<uint32_t>VMNET_BATCH):
        vmnet.outgoing[i].vectors = &vmnet.outgoing_vectors[i]
        vmnet.outgoing[i].vector_count = 1


cdef uint8_t *_slot(vmnet_port *vmnet, uint32_t i) noexcept nogil:
    return vmnet.room + <size_t>i * vmnet.slot_bytes + BUFFER_FRAME_OFFSET


cdef uint32_t _send(vmnet_port *vmnet, port_frame **frames, uint32_t wanted) noexcept nogil:
    """Send up to *wanted* frames; how many are done with, sent or dropped: at least one, or the batch was too large."""
    cdef port *self = &vmnet.base
    cdef uint32_t i, status
    cdef uint32_t count = _describe(vmnet, frames, wanted)
    cdef int sent = <int>count
    cdef uint64_t total = 0
    status = interface_write(vmnet.interface, vmnet.outgoing, &sent)
    sent = max(0, min(sent, <int>count))
    for i in range(<uint32_t>sent):
        total += frames[i].size
    port_sent(self, sent, total)
    if <uint32_t>sent == count or status == SUCCESS and sent:
        return sent
    if status == TOO_MANY_PACKETS and count > 1:
        vmnet.write_max = max(1, count // 2)
        return sent
    if status == PACKET_TOO_BIG:
        port_drop(self, PORT_DROP_TOO_BIG, 1)
        return sent + 1
    if status == BUFFER_EXHAUSTED or status == SUCCESS:
        port_drop(self, PORT_DROP_FULL, count - sent)
        return count
    port_drop(self, PORT_DROP_KERNEL, count - sent)
    _failed(vmnet, status)
    return count


cdef uint32_t _describe(vmnet_port *vmnet, port_frame **frames, uint32_t wanted) noexcept nogil:
    """Make packets of the first frames, as many as one call takes; how many these are: at least one."""
    cdef uint32_t header = FRAME_VNET_BYTES if vmnet.virtio_headers else 0
    cdef uint32_t i
    cdef size_t size, total = 0
    for i in range(wanted):
        size = header + frames[i].size
        if size > VMNET_WRITE_BYTES - total:
            return i
        vmnet.outgoing[i].size = vmnet.outgoing_vectors[i].iov_len = size
        vmnet.outgoing[i].flags = 0
        if frames[i].rest_count:
            vmnet.outgoing_vectors[i].iov_base = vmnet.gathered + total
            _gather(vmnet.gathered + total, frames[i], header)
        else:
            vmnet.outgoing_vectors[i].iov_base = frames[i].head.data - header
        total += size
    return wanted


cdef void _gather(uint8_t *into, const port_frame *f, uint32_t header) noexcept nogil:
    cdef uint32_t i
    memcpy(into, f.head.data - header, header + f.head.size)
    into += header + f.head.size
    for i in range(f.rest_count):
        memcpy(into, f.rest[i].iov_base, f.rest[i].iov_len)
        into += f.rest[i].iov_len


cdef void _failed(vmnet_port *vmnet, uint32_t status) noexcept nogil:
    """Tell control once; the next signal has packets read again."""
    if status != vmnet.failed:
        vmnet.failed = status
        worker_report(&vmnet.base, REPORT_VMNET_STATUS, status)
