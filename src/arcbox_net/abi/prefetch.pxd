"""Asking for a cache line before it is needed. The address need not be valid. Declarations only."""


cdef extern from * nogil:
    """
    /* To GCC a function that only prefetches does nothing, and is not called; the empty statement is something. */
    #define abx_prefetch_as(p, write) do { __builtin_prefetch((p), (write), 3); __asm__ volatile(""); } while (0)
    static inline void abx_prefetch(const void *p) { abx_prefetch_as(p, 0); }
    static inline void abx_prefetch_to_write(const void *p) { abx_prefetch_as(p, 1); }
    """
    void abx_prefetch(const void *p)
    void abx_prefetch_to_write(const void *p)
