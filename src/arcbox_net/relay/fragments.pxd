"""Packets that reach the TUN in fragments; fragments.pyx joins them."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    FRAGMENT_SLOTS = 4  # packets that are being joined at a time
    FRAGMENT_KEY_BYTES = 40

cdef enum fragment_verdict:
    FRAGMENT_DROPPED
    FRAGMENT_KEPT
    FRAGMENT_JOINED  # it was the last one

cdef struct fragment_slot:
    uint8_t key[FRAGMENT_KEY_BYTES]  # addresses, identification, protocol; all zero while nothing is there
    uint32_t header_size  # of the IP header
    uint32_t joined  # bytes behind it so far
    uint8_t *frame  # FRAME_BYTES

cdef struct fragment_table:
    fragment_slot slots[FRAGMENT_SLOTS]
    uint32_t oldest
    uint8_t *frames


cdef bint fragments_prepare(fragment_table *t) noexcept nogil
cdef void fragments_release(fragment_table *t) noexcept nogil
cdef fragment_verdict fragments_join(
    fragment_table *t, const uint8_t *frame, size_t size, uint8_t **whole, size_t *whole_size
) noexcept nogil
