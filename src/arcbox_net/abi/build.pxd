"""How this module was compiled: `if ABX_DEBUG:` costs nothing in a release build."""


cdef extern from *:
    """
    #ifndef ABX_DEBUG
    #define ABX_DEBUG 0
    #endif
    """
    const bint ABX_DEBUG
