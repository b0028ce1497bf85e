"""Owns the memory of the frames that the engine makes: a bounded arena that is given back as a whole.

Each frame has a zeroed virtio-net header ahead of it and the Ethernet header of the frame that caused it.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from arcbox_net.dataplane.emitter cimport (
    EMIT_ALIGNMENT, EMIT_BYTES_MAX, EMIT_FRAMES_MAX, EMIT_OWNERS, EMIT_SHARE, emitter,
)
from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport FRAME_VNET, FRAME_VNET_BYTES, frame
from arcbox_net.wire.ethernet cimport ETHERNET_DESTINATION, ETHERNET_SOURCE, MAC_BYTES


cdef bint emitter_init(emitter *e) noexcept nogil:
    """False when there is no memory; `emitter_free` is due all the same."""
    memset(e, 0, sizeof(emitter))
    e.arena = <uint8_t *>calloc(1, EMIT_BYTES_MAX)
    return e.arena != NULL


cdef void emitter_free(emitter *e) noexcept nogil:
    free(e.arena)
    e.arena = NULL


cdef bint emit_room(emitter *e, uint32_t frames, uint32_t frame_size) noexcept nogil:
    """Whether *frames* of at most *frame_size* bytes find room; if not they count as overflows."""
    cdef uint64_t each = _reserved(frame_size)
    if frames <= EMIT_FRAMES_MAX - e.count and frames * each <= <uint64_t>(EMIT_BYTES_MAX - e.used):
        return True
    e.overflows += frames
    return False


cdef bint emit_share(emitter *e, uint32_t owner, uint32_t frames, uint32_t frame_size) noexcept nogil:
    """As `emit_room`, for fragments of the set *owner* of senders: what others send in the burst finds room too."""
    cdef uint32_t *taken = &e.owner_frames[owner % EMIT_OWNERS]
    cdef uint32_t *size = &e.owner_bytes[owner % EMIT_OWNERS]
    cdef uint32_t more = frames * _reserved(frame_size)
    if taken[0] and (
        taken[0] + frames > EMIT_FRAMES_MAX // EMIT_SHARE or size[0] + more > EMIT_BYTES_MAX // EMIT_SHARE
    ):
        e.overflows += frames
        return False
    if not emit_room(e, frames, frame_size):
        return False
    taken[0] += frames
    size[0] += more
    return True


cdef uint8_t *emit_packet(emitter *e, const frame *cause, Direction towards, uint32_t size) noexcept nogil:
    """Where the *size* bytes of an IP packet go, behind the same Ethernet header as *cause*'s; NULL without room."""
    cdef frame *f = &e.frames[e.count]
    cdef uint8_t *start = e.arena + e.used + EMIT_ALIGNMENT
    if not emit_room(e, 1, cause.l3 + size):
        return NULL
    memset(start - FRAME_VNET_BYTES, 0, FRAME_VNET_BYTES)
    memcpy(start, cause.data, cause.l3)
    f.data = start
    f.size = cause.l3 + size
    f.headroom = 0
    f.l3 = cause.l3
    f.flags = FRAME_VNET
    e.towards[e.count] = <uint8_t>towards
    e.used += _reserved(f.size)
    e.count += 1
    return start + f.l3


cdef uint8_t *emit_answer(emitter *e, const frame *cause, Direction towards, uint32_t size) noexcept nogil:
    """As `emit_packet`, back to whoever sent *cause*."""
    cdef uint8_t *packet = emit_packet(e, cause, towards, size)
    cdef uint8_t *start
    if packet != NULL and cause.l3 >= 2 * MAC_BYTES:
        start = packet - cause.l3
        memcpy(start + ETHERNET_DESTINATION, cause.data + ETHERNET_SOURCE, MAC_BYTES)
        memcpy(start + ETHERNET_SOURCE, cause.data + ETHERNET_DESTINATION, MAC_BYTES)
    return packet


cdef uint32_t _reserved(uint32_t frame_size) noexcept nogil:
    """Bytes of the arena: a cache line for the header ahead of the frame, and whole ones for the frame."""
    return EMIT_ALIGNMENT + ((frame_size + EMIT_ALIGNMENT - 1) & ~<uint32_t>(EMIT_ALIGNMENT - 1))
