"""What a port may ask of its worker, from within one of its own functions."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from arcbox_net.abi.poller cimport abx_poll_event
from arcbox_net.dataplane.port cimport port
from arcbox_net.dataplane.worker_loop cimport worker_event, worker_loop


cdef int worker_watch(port *p, int fd, uint32_t events, uint32_t tag) noexcept nogil
cdef void worker_unwatch(port *p, int fd) noexcept nogil
cdef void worker_tick_soon(port *p) noexcept nogil
cdef void worker_report(port *p, uint32_t kind, int64_t value) noexcept nogil

cdef void watch_on_event(worker_loop *loop, const abx_poll_event *event) noexcept nogil
cdef void watch_drop_all(worker_loop *loop, uint16_t number) noexcept nogil
cdef bint report_put(worker_loop *loop, uint32_t kind, uint16_t number, int64_t value) noexcept nogil
