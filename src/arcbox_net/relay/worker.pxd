"""The relay's threads; worker.pyx says what one turn is."""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.relay.flow cimport flow_row, relay_request, relay_worker


cdef int worker_init(relay_worker *w, uint32_t flows_max, bint exclusive) noexcept nogil
cdef int worker_serve(relay_worker *w) except -1
cdef size_t worker_flows(relay_worker *w, flow_row *rows, size_t rows_max) noexcept nogil
cdef void worker_post(relay_worker *w, relay_request *request) noexcept nogil
cdef void worker_wait(relay_worker *w, relay_request *request) noexcept nogil
cdef void worker_free(relay_worker *w) noexcept nogil
