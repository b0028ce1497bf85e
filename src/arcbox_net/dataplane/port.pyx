"""`Port` and `Receiver`: what every kind of them is for Python code."""

from libc.stdlib cimport free


cdef class Port:
    def __dealloc__(self):
        # A port that is in a worker is kept alive by it, so nobody uses the struct any more.
        free(self.base)
        self.base = NULL

    @property
    def number(self):
        """Its place in its worker's table, or None while it is in no worker."""
        return None if self.worker is None or self.base == NULL else self.base.number


cdef class Receiver:
    def __dealloc__(self):
        free(self.base)
        self.base = NULL
