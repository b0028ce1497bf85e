"""The relay's threads; worker.pyx says what one turn is."""

from libc.stdint cimport uint32_t, uint64_t

from arcbox_net.relay.flow cimport relay_request, relay_worker


cdef int worker_init(relay_worker *w, uint32_t flows_max, bint exclusive) noexcept nogil
cdef void worker_run(relay_worker *w) noexcept nogil
cdef void worker_post(relay_worker *w, relay_request *request) noexcept nogil
cdef void worker_wait(relay_worker *w, relay_request *request) noexcept nogil
cdef void worker_free(relay_worker *w) noexcept nogil
