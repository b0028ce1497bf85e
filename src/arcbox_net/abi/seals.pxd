"""What nobody may do to a memfd of Linux any more. Declarations only."""


cdef extern from "fcntl.h" nogil:
    int F_GET_SEALS, F_SEAL_SHRINK
