"""Calls to guests. See calls.pyx."""

cdef int calls_open() except -1
cdef bint call_guest(int event_fd) noexcept nogil
