"""Breaks the order of atomics.pxd in the module that names this file, to show that ThreadSanitizer would notice."""


cdef extern from *:
    """
    #include "atomics.h"
    #define abx_load_acquire_u64 abx_load_relaxed_u64
    #define abx_store_release_u64 abx_store_relaxed_u64
    """
    const bint ORDER_IS_BROKEN "1"
