"""Asking for a cache line before it is needed. The address need not be valid. Declarations only."""


cdef extern from * nogil:
    """
    #define abx_prefetch(p) __builtin_prefetch((p), 0, 3)
    #define abx_prefetch_to_write(p) __builtin_prefetch((p), 1, 3)
    """
    void abx_prefetch(const void *p)
    void abx_prefetch_to_write(const void *p)
