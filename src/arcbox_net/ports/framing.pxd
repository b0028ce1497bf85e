"""Frames in a byte stream, as QEMU's `-netdev stream` has them: a length of four bytes in network order, and the frame.

Bytes in, decisions out. The length is the peer's claim: it is checked here, and nothing is ever allocated by it. After
a length that no frame has there is no telling where the next one begins, so the stream is over.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memmove

from arcbox_net.dataplane.port cimport FRAME_BYTES_MAX, FRAME_BYTES_MIN
from arcbox_net.wire.octets cimport load_u32

cdef enum:
    LENGTH_BYTES = 4
    RECEIVE_BYTES = 1 << 18  # that are read at once
    STREAM_BYTES = RECEIVE_BYTES + LENGTH_BYTES + FRAME_BYTES_MAX

cdef enum framing:
    FRAMING_FRAME  # a whole frame is there
    FRAMING_MORE  # the rest of it has yet to come
    FRAMING_WRONG  # no frame has this length

cdef struct stream_bytes:  # what came in and was not taken: less than a frame, and what was read since
    uint8_t *bytes  # STREAM_BYTES
    uint32_t begin
    uint32_t end


cdef inline uint8_t *stream_room(stream_bytes *s) noexcept nogil:
    """Where the next RECEIVE_BYTES may be read to, when no whole frame is left. Frames that were taken are gone."""
    s.end -= s.begin
    memmove(s.bytes, s.bytes + s.begin, s.end)
    s.begin = 0
    return s.bytes + s.end


cdef inline framing stream_take(stream_bytes *s, uint8_t **frame, uint32_t *length) noexcept nogil:
    """Take the next frame, which stays where it lies until `stream_room`. If it is WRONG, *length* says how."""
    cdef uint32_t there = s.end - s.begin
    if there < LENGTH_BYTES:
        return FRAMING_MORE
    length[0] = load_u32(s.bytes + s.begin)
    if length[0] < FRAME_BYTES_MIN or length[0] > FRAME_BYTES_MAX:
        return FRAMING_WRONG
    if there - LENGTH_BYTES < length[0]:
        return FRAMING_MORE
    frame[0] = s.bytes + s.begin + LENGTH_BYTES
    s.begin += LENGTH_BYTES + length[0]
    return FRAMING_FRAME
