"""Frames that the engine makes itself: answers and fragments. emitter.pyx has the memory for them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from arcbox_net.dataplane.verdict cimport Direction
from arcbox_net.memory.frame cimport frame

cdef enum:
    EMIT_FRAMES_MAX = 512  # a burst of 9,000-byte packets, each cut for an MTU of 1,500
    EMIT_BYTES_MAX = 1 << 20
    # Senders belong to one of so many sets, and the fragments of a set fill one of so many parts of a burst's room. A
    # set's first packet may fill more.
    EMIT_OWNERS = 16
    EMIT_SHARE = 4
    EMIT_ALIGNMENT = 64  # a frame begins a cache line, behind its virtio-net header in the one before

cdef struct emitter:
    uint8_t *arena
    uint32_t used
    uint32_t count
    uint64_t overflows  # frames that there was no room for
    uint32_t owner_frames[EMIT_OWNERS]
    uint32_t owner_bytes[EMIT_OWNERS]
    frame frames[EMIT_FRAMES_MAX]
    uint8_t towards[EMIT_FRAMES_MAX]  # OUTBOUND: to the uplink; INBOUND: to a guest


cdef bint emitter_init(emitter *e) noexcept nogil
cdef void emitter_free(emitter *e) noexcept nogil
cdef bint emit_room(emitter *e, uint32_t frames, uint32_t frame_size) noexcept nogil
cdef bint emit_share(emitter *e, uint32_t owner, uint32_t frames, uint32_t frame_size) noexcept nogil
cdef uint8_t *emit_packet(emitter *e, const frame *cause, Direction towards, uint32_t size) noexcept nogil
cdef uint8_t *emit_answer(emitter *e, const frame *cause, Direction towards, uint32_t size) noexcept nogil


cdef inline void emitter_reset(emitter *e) noexcept nogil:
    """Give back the memory of all frames: they were sent."""
    if e.count:
        memset(e.owner_frames, 0, sizeof(e.owner_frames))
        memset(e.owner_bytes, 0, sizeof(e.owner_bytes))
    e.used = 0
    e.count = 0
