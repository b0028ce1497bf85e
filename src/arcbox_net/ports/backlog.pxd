"""What a peer has not taken yet: frames behind their lengths, in a ring of bytes with a fixed end.

A stream sends it as it is; a socket of datagrams reads the lengths to tell the frames apart.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.ports.framing cimport LENGTH_BYTES
from arcbox_net.wire.octets cimport load_u32, store_u32

cdef enum:
    BACKLOG_BYTES_MAX = 1 << 20  # of a port; a power of two
    BACKLOG_VECTORS = 2  # pieces of memory in which any part of it lies

cdef struct backlog:
    uint8_t *bytes
    uint32_t head  # how many bytes were ever put in, and
    uint32_t tail  # taken out: both wrap


cdef inline bint backlog_open(backlog *b) noexcept nogil:
    """False when there is no memory. Untouched pages cost nothing."""
    b.head = b.tail = 0
    b.bytes = <uint8_t *>malloc(BACKLOG_BYTES_MAX)
    return b.bytes != NULL


cdef inline void backlog_close(backlog *b) noexcept nogil:
    free(b.bytes)
    b.bytes = NULL


cdef inline uint32_t backlog_size(const backlog *b) noexcept nogil:
    return b.head - b.tail


cdef inline void backlog_clear(backlog *b) noexcept nogil:
    b.tail = b.head


cdef inline void backlog_append(backlog *b, const uint8_t *bytes, uint32_t size) noexcept nogil:
    """The caller has made sure of the room."""
    cdef uint32_t at = b.head & (BACKLOG_BYTES_MAX - 1)
    cdef uint32_t first = min(size, <uint32_t>BACKLOG_BYTES_MAX - at)
    memcpy(b.bytes + at, bytes, first)
    memcpy(b.bytes, bytes + first, size - first)
    b.head += size


cdef inline bint backlog_put(backlog *b, const port_frame *f, uint32_t sent) noexcept nogil:
    """Take a frame and its length, but for the first *sent* bytes of both; False when there is no room."""
    cdef uint8_t length[LENGTH_BYTES]
    cdef uint32_t i
    if LENGTH_BYTES + f.size - sent > BACKLOG_BYTES_MAX - backlog_size(b):
        return False
    store_u32(length, f.size)
    sent = _append_behind(b, sent, length, LENGTH_BYTES)
    sent = _append_behind(b, sent, f.head.data, f.head.size)
    for i in range(f.rest_count):
        sent = _append_behind(b, sent, <const uint8_t *>f.rest[i].iov_base, <uint32_t>f.rest[i].iov_len)
    return True


cdef inline uint32_t _append_behind(
    backlog *b, uint32_t skip, const uint8_t *bytes, uint32_t size
) noexcept nogil:
    """Append but for the first *skip* bytes; how many are left to skip."""
    if skip >= size:
        return skip - size
    backlog_append(b, bytes + skip, size - skip)
    return 0


cdef inline int backlog_vectors(const backlog *b, uint32_t offset, uint32_t size, iovec *vectors) noexcept nogil:
    """Where *size* bytes from *offset* on lie: one or two vectors."""
    cdef uint32_t at = (b.tail + offset) & (BACKLOG_BYTES_MAX - 1)
    cdef uint32_t first = min(size, <uint32_t>BACKLOG_BYTES_MAX - at)
    vectors[0].iov_base = b.bytes + at
    vectors[0].iov_len = first
    vectors[1].iov_base = b.bytes
    vectors[1].iov_len = size - first
    return 1 if first == size else 2


cdef inline uint32_t backlog_length(const backlog *b, uint32_t offset) noexcept nogil:
    """The length of the frame that begins at *offset*."""
    cdef uint8_t length[LENGTH_BYTES]
    cdef int i
    for i in range(LENGTH_BYTES):
        length[i] = b.bytes[(b.tail + offset + i) & (BACKLOG_BYTES_MAX - 1)]
    return load_u32(length)


cdef inline void backlog_take(backlog *b, uint32_t size) noexcept nogil:
    b.tail += size
