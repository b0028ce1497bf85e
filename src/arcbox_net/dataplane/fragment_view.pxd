"""A fragment of either IP version, as reassembly.pyx wants it; read by fragment_view.pyx."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.dataplane.verdict cimport Direction

cdef enum:
    ECN_NOT_CAPABLE = 0
    ECN_CONGESTION = 3

cdef struct fragment_view:
    uint64_t key_addresses
    uint64_t key_rest
    uint64_t owner_key  # of its sender, if that is outside: IPv6 addresses there are one if they have the same /64
    const uint8_t *ip
    const uint8_t *payload
    uint32_t size  # of the payload
    uint32_t offset
    uint8_t header_size  # of all that is ahead of the payload
    uint8_t ecn
    bint last


cdef bint fragment_view_read(
    fragment_view *v, const uint8_t *ip, Direction direction, const uint64_t *seed
) noexcept nogil
cdef uint32_t fragment_header_size(const uint8_t *ip, uint32_t header_size) noexcept nogil
cdef bint fragment_whole_headers(uint8_t *ip, uint32_t header_size, uint32_t size, bint congested) noexcept nogil
