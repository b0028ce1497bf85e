"""The framing of streams for tests: bytes in, in any pieces, and frames out."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from arcbox_net.ports.framing cimport (
    FRAMING_FRAME, FRAMING_WRONG, RECEIVE_BYTES, STREAM_BYTES, framing, stream_bytes, stream_room, stream_take,
)

RECEIVE_BYTES_MAX = RECEIVE_BYTES


cdef class Framing:
    cdef stream_bytes stream

    def __cinit__(self):
        self.stream.bytes = <uint8_t *>malloc(STREAM_BYTES)
        if self.stream.bytes == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.stream.bytes)

    def receive(self, bytes piece):
        """The frames that *piece* completes. Raises ValueError, with the length, once a length is wrong."""
        cdef framing found = FRAMING_FRAME
        cdef uint8_t *frame = NULL
        cdef uint32_t length = 0
        assert len(piece) <= RECEIVE_BYTES
        memcpy(stream_room(&self.stream), <const char *>piece, len(piece))
        self.stream.end += <uint32_t>len(piece)
        frames = []
        while found == FRAMING_FRAME:
            found = stream_take(&self.stream, &frame, &length)
            if found == FRAMING_WRONG:
                raise ValueError(length)
            if found == FRAMING_FRAME:
                frames.append(frame[:length])
        return frames

    @property
    def unfinished(self):
        """How many bytes wait for the rest of their frame."""
        return self.stream.end - self.stream.begin
