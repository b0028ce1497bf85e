"""Frames as Python code hands them to compiled stages: a batch over a pool, or over memory of the caller.

A batch owns its frames until it is cleared. A view of a frame keeps the batch from being cleared, as a view of a
bytearray keeps it from being resized: nobody looks at a buffer that is somebody else's by then.
"""

from cython cimport no_gc_clear
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from arcbox_net.memory.frame cimport BURST_MAX, FRAME_POOL, FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.memory.pool cimport (
    LARGE_FRAME_BYTES, POOL_LARGE, POOL_SMALL, SMALL_FRAME_BYTES, PacketPool, pool_acquire_burst, pool_release_burst,
    pool_room,
)

from arcbox_net.errors import BuffersExhausted, ConfigError, LimitReached
from arcbox_net.memory.pool import CLASSES as _CLASSES

BATCH_MAX = BURST_MAX


# The collector may clear references of a cycle before the objects end: these still need theirs to give buffers back.
@no_gc_clear
cdef class FrameBatch:
    """Up to 64 frames in buffers of *pool*; len, iteration and indexing go over the frames' writable memoryviews.

    The descriptor says that an IP header is *l3* bytes into each frame: 14 behind Ethernet, 0 for bare IP packets.
    `with FrameBatch(pool) as batch:` releases the buffers at the end of the block.
    """

    def __cinit__(self, PacketPool pool=None):
        self.pool = pool

    @staticmethod
    def over(buffers, *, vnet=False, uint8_t l3=14):
        """A batch of up to 64 writable *buffers* of the caller (bytearray, memoryview, …), each one frame; nothing is
        copied. The buffers are held, and cannot be resized, until the batch is cleared. With *vnet* the first 12 bytes
        of each are its virtio-net header. Raises BufferError for read-only memory, ConfigError for a bad frame.
        """
        cdef FrameBatch batch = FrameBatch()
        cdef Py_buffer *borrowed
        cdef frame *each
        cdef Py_ssize_t ahead = FRAME_VNET_BYTES if vnet else 0
        for buffer in buffers:
            _check_room(batch.borrowed_count, 1)  # len() of a class of the caller's may say anything
            borrowed = &batch.borrowed[batch.borrowed_count]
            PyObject_GetBuffer(buffer, borrowed, PyBUF_WRITABLE)
            batch.borrowed_count += 1
            _check_size(borrowed.len, ahead)
            each = &batch.frames[batch.count]
            each.data = <uint8_t *>borrowed.buf + ahead
            each.size = <uint32_t>(borrowed.len - ahead)
            each.headroom = 0
            each.l3 = l3
            each.flags = FRAME_VNET if vnet else 0
            batch.count += 1
        return batch

    def append(self, frame_bytes, *, vnet=False, uint8_t l3=14):
        """Copy a frame into a buffer that it fits. With *vnet* its first 12 bytes are its virtio-net header.

        Raises BuffersExhausted, which the pool counts; LimitReached at 64 frames; ConfigError for a bad size.
        """
        cdef const uint8_t[::1] source = frame_bytes
        cdef Py_ssize_t ahead = FRAME_VNET_BYTES if vnet else 0
        cdef frame *each
        _check_size(source.shape[0], ahead)
        self.acquire(1, size=source.shape[0] - ahead, l3=l3)
        each = &self.frames[self.count - 1]
        if vnet:
            each.flags |= FRAME_VNET
        if source.shape[0]:
            memcpy(each.data - ahead, &source[0], source.shape[0])

    def acquire(self, Py_ssize_t count, *, Py_ssize_t size=0, uint8_t l3=14):
        """Append *count* frames of *size* bytes, whose content is whatever was there. All of them or none.

        Raises BuffersExhausted, which the pool counts; LimitReached past 64 frames; ConfigError for a bad size.
        """
        cdef uint32_t size_class, found, i
        cdef frame *frames = &self.frames[self.count]
        if self.pool is None or self.pool.closed:
            raise ConfigError("the batch has no pool, or a closed one", field="pool", value=self.pool)
        _check_room(self.count, count)
        _check_size(size, 0)
        size_class = POOL_SMALL if size <= SMALL_FRAME_BYTES else POOL_LARGE
        found = pool_acquire_burst(self.pool.own, size_class, frames, count)
        if found < count:
            pool_release_burst(self.pool.own, frames, found)
            buffers = self.pool.pool.classes[size_class].count
            raise BuffersExhausted(
                f"{count} {_CLASSES[size_class]} buffers wanted, {found} of {buffers} are free",
                fix="clear batches, or make a larger pool",
                size_class=_CLASSES[size_class],
                buffers=buffers,
            )
        for i in range(found):
            frames[i].size = size
            frames[i].l3 = l3
        self.count += found

    def resize(self, i, size):
        """Say that frame *i* has *size* bytes. Raises ConfigError if its memory has no such room."""
        cdef frame *each = self._at(i)
        room = self.room(i)
        if not 0 <= size <= room:
            raise ConfigError(f"frame {i}: {size} bytes, there is room for {room}", field="size", value=size)
        each.size = size

    def room(self, i):
        """Bytes that frame *i* could have where it lies."""
        cdef frame *each = self._at(i)
        cdef Py_buffer *borrowed
        if each.flags & FRAME_POOL:
            return pool_room(self.pool.pool, each.data)
        borrowed = &self.borrowed[each - self.frames]
        return <uint8_t *>borrowed.buf + borrowed.len - each.data

    def offset(self, i):
        """Where frame *i* begins in the pool's memory, for another process that has mapped `PacketPool.fd`."""
        cdef frame *each = self._at(i)
        if not each.flags & FRAME_POOL:
            raise ConfigError(f"frame {i} is not in a pool", field="pool", value=None)
        return each.data - self.pool.pool.base

    def vnet_header(self, i):
        """The 12 bytes of frame *i*'s virtio-net header, or None if it has none."""
        cdef frame *each = self._at(i)
        if each.flags & FRAME_VNET:
            return self._view(each.data - FRAME_VNET_BYTES, FRAME_VNET_BYTES)
        return None

    def clear(self):
        """Release every frame. Raises BufferError while a view of one exists."""
        if self.views:
            raise BufferError(f"{self.views} views of the batch's frames exist: release them first")
        self._release()

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t i):
        cdef frame *each = self._at(i)
        return self._view(each.data, each.size)

    def __iter__(self):
        for i in range(self.count):
            yield self[i]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        # A traceback may still hold views; that error is the one to see, and the last reference releases the frames.
        if error is None or not self.views:
            self.clear()

    def __dealloc__(self):
        self._release()

    cdef void _release(self):
        cdef uint32_t i
        if self.pool is not None:
            pool_release_burst(self.pool.own, self.frames, self.count)
        for i in range(self.borrowed_count):
            PyBuffer_Release(&self.borrowed[i])
        self.borrowed_count = 0
        self.count = 0

    cdef frame *_at(self, Py_ssize_t i) except NULL:
        cdef Py_ssize_t place = i + self.count if i < 0 else i
        if not 0 <= place < self.count:
            raise IndexError(f"frame {i} of {self.count}")
        return &self.frames[place]

    cdef object _view(self, uint8_t *base, Py_ssize_t size):
        cdef FrameView view = FrameView()
        view.batch = self
        view.base = base
        view.size = size
        return memoryview(view)


@no_gc_clear
cdef class FrameView:
    """What a memoryview of a frame is a view of."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.size, False, flags)
        self.batch.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.batch.views -= 1


cdef int _check_room(Py_ssize_t held, Py_ssize_t more) except -1:
    if held + more > BURST_MAX or more < 0:
        raise LimitReached(
            f"{held} and {more} frames: a batch holds at most {BURST_MAX}", limit="frames", value=BURST_MAX
        )
    return 0


cdef int _check_size(Py_ssize_t size, Py_ssize_t ahead) except -1:
    if not ahead <= size <= ahead + LARGE_FRAME_BYTES:
        raise ConfigError(
            f"{size} bytes: expected {ahead} to {ahead + LARGE_FRAME_BYTES}", field="size", value=size
        )
    return 0
