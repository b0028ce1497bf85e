"""What a port may ask of its worker, from within one of its own functions; and the Worker of Python code."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from arcbox_net.dataplane.worker_loop cimport worker_loop
from arcbox_net.dataplane.worker_watch cimport worker_report, worker_tick_soon, worker_unwatch, worker_watch
from arcbox_net.memory.pool cimport PacketPool, PoolCache
from arcbox_net.memory.ring cimport LockFreeRing
from arcbox_net.memory.shared cimport SharedMemory


cdef class Worker:
    cdef worker_loop *loop
    cdef readonly PacketPool pool
    cdef readonly str name
    cdef PoolCache cache
    cdef SharedMemory memory
    cdef LockFreeRing commands
    cdef LockFreeRing answers
    cdef LockFreeRing reports
    cdef object thread
    cdef object lock
    cdef object pausing
    cdef dict seats
    cdef uint64_t tickets
    cdef uint32_t generations
    cdef uint32_t posts
    cdef bint has_started

    cdef bint _is_current(self, uint16_t number, uint32_t generation)
    cdef int _free_number(self, wanted) except -1
    cdef int64_t _ask(self, uint16_t kind, uint16_t number, bytes payload) except? -1
    cdef int64_t _answered(self, uint16_t kind, uint16_t number, bytes payload) except? -1
    cdef uint64_t _put(self, uint16_t kind, uint16_t number, bytes payload, uint64_t waits) except 0
