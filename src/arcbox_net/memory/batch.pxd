"""Up to BURST_MAX frame descriptors that Python code holds, and the memory they point into.

A stage gets `frames` and `count` and may rewrite frames in place, and move `data` and `size` within the frame's memory.
It reorders and releases none: that is the batch's, with the GIL.
"""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.memory.frame cimport BURST_MAX, frame
from arcbox_net.memory.pool cimport PacketPool


cdef class FrameBatch:
    cdef frame frames[BURST_MAX]
    cdef uint32_t count
    cdef readonly PacketPool pool  # None when the frames are the caller's own memory
    cdef int views  # memoryviews that look at a frame; while there is one, no frame is released
    cdef Py_buffer borrowed[BURST_MAX]  # of the frame at the same index
    cdef uint32_t borrowed_count

    cdef void _release(self)
    cdef frame *_at(self, Py_ssize_t i) except NULL
    cdef object _view(self, uint8_t *base, Py_ssize_t size)


cdef class FrameView:
    cdef FrameBatch batch
    cdef uint8_t *base
    cdef Py_ssize_t size
