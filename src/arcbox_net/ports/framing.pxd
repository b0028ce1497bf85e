"""Frames in a byte stream, as QEMU's `-netdev stream` has them: a length of four bytes in network order, and the frame.

Bytes in, decisions out. The length is the peer's claim: it is checked here, and nothing is ever allocated by it. After
a length that no frame has there is no telling where the next one begins, so the stream is over.
"""

from libc.stdint cimport uint8_t, uint32_t

from arcbox_net.dataplane.port cimport FRAME_BYTES_MAX, FRAME_BYTES_MIN
from arcbox_net.wire.octets cimport load_u32

cdef enum:
    LENGTH_BYTES = 4

cdef enum framing:
    FRAMING_FRAME  # a whole frame is there
    FRAMING_MORE  # the rest of it has yet to come
    FRAMING_WRONG  # no frame has this length


cdef inline framing framing_next(const uint8_t *bytes, uint32_t size, uint32_t *length) noexcept nogil:
    """What begins at *bytes*, of which *size* are there; *length* is the frame's, once its four bytes are there."""
    length[0] = 0
    if size < LENGTH_BYTES:
        return FRAMING_MORE
    length[0] = load_u32(bytes)
    if length[0] < FRAME_BYTES_MIN or length[0] > FRAME_BYTES_MAX:
        return FRAMING_WRONG
    return FRAMING_FRAME if size - LENGTH_BYTES >= length[0] else FRAMING_MORE
