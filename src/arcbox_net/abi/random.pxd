"""Linux's random bytes. Declarations only."""


cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void *buffer, size_t size, unsigned int flags)
