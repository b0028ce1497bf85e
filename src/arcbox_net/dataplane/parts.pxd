"""The bytes of a frame that lie in pieces: taken in turn, and summed. They are never parsed, only sent or copied."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from arcbox_net.abi.socket cimport iovec
from arcbox_net.dataplane.port cimport port_frame
from arcbox_net.wire.checksum cimport checksum_add, checksum_fold
from arcbox_net.wire.octets cimport swap_u16

cdef struct parts_cursor:
    uint8_t *at  # what is left of the part that it is in
    size_t size
    const iovec *later
    uint32_t later_count


cdef inline void parts_begin(parts_cursor *c, const port_frame *f, uint32_t offset) noexcept nogil:
    """At *offset* of the frame, which is within its head."""
    c.at = f.head.data + offset
    c.size = f.head.size - offset
    c.later = f.rest
    c.later_count = f.rest_count


cdef inline uint32_t parts_take(parts_cursor *c, uint32_t size, iovec *vectors, uint32_t room) noexcept nogil:
    """Describe the next *size* bytes, which are more than none; how many vectors it took, 0 if *room* do not do."""
    cdef uint32_t n = 0
    cdef size_t piece
    while size:
        while c.size == 0:
            if c.later_count == 0:
                return 0
            c.at = <uint8_t *>c.later.iov_base
            c.size = c.later.iov_len
            c.later += 1
            c.later_count -= 1
        if n == room:
            return 0
        piece = min(<size_t>size, c.size)
        vectors[n].iov_base = c.at
        vectors[n].iov_len = piece
        n += 1
        c.at += piece
        c.size -= piece
        size -= <uint32_t>piece
    return n


cdef inline uint64_t parts_add(uint64_t total, bint *odd, const uint8_t *p, size_t size) noexcept nogil:
    """*total* and the next piece; *odd* is whether an odd number of bytes went ahead, and is kept up to date."""
    if odd[0]:  # the octets of its words have changed places
        total += swap_u16(checksum_fold(checksum_add(0, p, size)))
    else:
        total = checksum_add(total, p, size)
    odd[0] ^= size & 1
    return total


cdef inline uint64_t parts_sum(uint64_t total, const iovec *vectors, uint32_t count) noexcept nogil:
    """*total* and the Internet checksum's sum of the bytes, the first of which is at an even offset."""
    cdef bint odd = False
    cdef uint32_t i
    for i in range(count):
        total = parts_add(total, &odd, <const uint8_t *>vectors[i].iov_base, vectors[i].iov_len)
    return total
