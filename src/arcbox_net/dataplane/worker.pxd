"""What a port may ask of its worker, from within one of its own functions."""

from libc.stdint cimport int64_t, uint32_t

from arcbox_net.dataplane.port cimport port


cdef int worker_watch(port *p, int fd, uint32_t events, uint32_t tag) noexcept nogil
cdef void worker_unwatch(port *p, int fd) noexcept nogil
cdef void worker_report(port *p, uint32_t kind, int64_t value) noexcept nogil
