"""What control has a worker do, between bursts."""

from libc.stdint cimport uint32_t

from arcbox_net.dataplane.worker_loop cimport worker_loop


cdef void commands_take(worker_loop *loop) noexcept nogil
cdef void commands_take_parked(worker_loop *loop) noexcept nogil
cdef void ports_bury(worker_loop *loop) noexcept nogil
cdef void ports_close(worker_loop *loop) noexcept nogil
