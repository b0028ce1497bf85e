"""The Internet checksum for Python: of one buffer, updated for one change, and both in batches.

Checksums and values are numbers as a packet has them in network order: int.from_bytes(field, "big").
"""

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from arcbox_net.wire.checksum cimport (
    checksum_add, checksum_apply, checksum_delta16, checksum_delta32, checksum_fold, pseudo_sum,
)
from arcbox_net.wire.octets cimport order_u16

from array import array
from ipaddress import ip_address
from operator import index

cdef enum:
    HELD_BYTES_MAX = 65536  # a longer sum lets other Python threads run
    SUM_BYTES_MAX = 0xFFFFFFFF


cdef class _View:
    """A caller's buffer for as long as this object lives."""

    cdef Py_buffer buffer
    cdef bint held

    def __cinit__(self, str name, owner, Py_ssize_t item_size, bint writable):
        cdef int flags = PyBUF_SIMPLE if item_size == 1 else PyBUF_ND | PyBUF_FORMAT
        if writable:
            flags |= PyBUF_WRITABLE
        PyObject_GetBuffer(owner, &self.buffer, flags)
        self.held = True
        if item_size == 1:
            return
        kind = self.buffer.format.decode() if self.buffer.format != NULL else "B"
        if self.buffer.itemsize != item_size or kind.lstrip("@=") not in ("H", "I", "L"):
            raise TypeError(f"{name} has format {kind!r}: unsigned numbers of {8 * item_size} bits are needed")
        if self.buffer.ndim != 1:
            raise TypeError(f"{name} has {self.buffer.ndim} dimensions, not one")

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buffer)

    cdef Py_ssize_t count(self) noexcept:
        return self.buffer.len // self.buffer.itemsize


def checksum(buffer, initial=0):
    """Return the Internet checksum (RFC 1071) of *buffer*, as it is sent.

    *buffer* is any contiguous one of at most 2^32 - 1 bytes; an odd one is summed as if a zero followed. *initial* is
    a sum to begin with, such as `pseudo_header_checksum` returns. 0 says that a buffer with its checksum in it is
    right. Raises TypeError for what is no buffer or number, ValueError for what is out of range.
    """
    cdef _View view = _View("buffer", buffer, 1, False)
    cdef const uint8_t *p = <const uint8_t *>view.buffer.buf
    cdef size_t size = view.buffer.len
    cdef uint64_t total = order_u16(_number("initial", initial, 0xFFFF))
    if size > SUM_BYTES_MAX:
        raise ValueError(f"a buffer of {size} bytes: at most {SUM_BYTES_MAX} are summed")
    if size > HELD_BYTES_MAX:
        with nogil:
            total = checksum_add(total, p, size)
    else:
        total = checksum_add(total, p, size)
    return order_u16(<uint16_t>~checksum_fold(total))


def pseudo_header_checksum(source, destination, protocol, size):
    """Return the sum of the pseudo header of TCP, UDP or ICMPv6 (RFC 9293, 768, 8200 8.1), not complemented.

    It is what `checksum` begins with, and what a packet has in its field whose checksum is left to the hardware.
    *source* and *destination* are addresses as `ipaddress.ip_address` takes them, both of one version. *size* is that
    of the L4 header and what follows it, in bytes.
    """
    cdef bytes src = ip_address(source).packed
    cdef bytes dst = ip_address(destination).packed
    if len(src) != len(dst):
        raise ValueError(f"{source} and {destination} are addresses of two IP versions")
    return order_u16(checksum_fold(pseudo_sum(
        <const uint8_t *>src, <const uint8_t *>dst, len(src),
        _number("protocol", protocol, 0xFF), _number("size", size, 0xFFFFFFFF),
    )))


def incremental_checksum_update(old_checksum, old_value, new_value, *, width=16):
    """Return the checksum after one value in what it covers has changed (RFC 1624, equation 3).

    *width* is that of both values in bits, 16 or 32; they begin at an even offset. 0 may come out, which UDP sends as
    0xFFFF, and UDP's 0 is no checksum and not to be updated (RFC 768).
    """
    # Numbers do as well as fields in memory: a sum does not depend on the order of the octets (RFC 1071 2 (B)).
    cdef int item_size = _width(width)
    cdef uint32_t value_max = 0xFFFF if item_size == 2 else 0xFFFFFFFF
    cdef uint16_t field = _number("old_checksum", old_checksum, 0xFFFF)
    cdef uint32_t old = _number("old_value", old_value, value_max)
    cdef uint32_t new = _number("new_value", new_value, value_max)
    if item_size == 2:
        return checksum_apply(field, checksum_delta16(<uint16_t>old, <uint16_t>new))
    return checksum_apply(field, checksum_delta32(old, new))


def checksum_batch(buffer, offsets, sizes, out=None):
    """Return `checksum` of many ranges of *buffer*.

    *offsets* and *sizes* are buffers of as many unsigned 32-bit numbers (array("I"), NumPy's uint32), in bytes. The
    checksums go to *out*, a writable buffer of unsigned 16-bit numbers, or to a new array("H"), which is returned.
    Raises ValueError for a range outside the buffer, and then has written nothing.
    """
    cdef _View view = _View("buffer", buffer, 1, False)
    cdef _View starts = _View("offsets", offsets, 4, False)
    cdef _View lengths = _View("sizes", sizes, 4, False)
    cdef Py_ssize_t n = starts.count(), bad
    out = _out(out, n)
    cdef _View results = _View("out", out, 2, True)
    _same_count("sizes", lengths, n)
    _same_count("out", results, n)
    cdef const uint32_t *offset = <const uint32_t *>starts.buffer.buf
    cdef const uint32_t *size = <const uint32_t *>lengths.buffer.buf
    with nogil:
        bad = _first_outside(offset, size, n, view.buffer.len)
        if bad < 0:
            _sum_each(<const uint8_t *>view.buffer.buf, offset, size, <uint16_t *>results.buffer.buf, n)
    if bad >= 0:
        raise ValueError(f"item {bad}: {size[bad]} bytes at {offset[bad]} of a buffer of {view.buffer.len}")
    return out


def incremental_checksum_update_batch(old_checksums, old_values, new_values, *, width=16, out=None):
    """Return `incremental_checksum_update` of many checksums, each for one change.

    All are buffers of as many unsigned numbers in the machine's order: *old_checksums* of 16 bits, the values of
    *width*, 16 or 32. The checksums go to *out*, which may be *old_checksums*, or to a new array("H"); it is returned.
    """
    cdef int item_size = _width(width)
    cdef _View fields = _View("old_checksums", old_checksums, 2, False)
    cdef _View old = _View("old_values", old_values, item_size, False)
    cdef _View new = _View("new_values", new_values, item_size, False)
    cdef Py_ssize_t n = fields.count()
    out = _out(out, n)
    cdef _View results = _View("out", out, 2, True)
    _same_count("old_values", old, n)
    _same_count("new_values", new, n)
    _same_count("out", results, n)
    cdef const uint16_t *field = <const uint16_t *>fields.buffer.buf
    cdef uint16_t *result = <uint16_t *>results.buffer.buf
    with nogil:
        if item_size == 2:
            _update_each16(field, <const uint16_t *>old.buffer.buf, <const uint16_t *>new.buffer.buf, result, n)
        else:
            _update_each32(field, <const uint32_t *>old.buffer.buf, <const uint32_t *>new.buffer.buf, result, n)
    return out


cdef uint32_t _number(str name, value, uint32_t value_max) except? 0:
    number = index(value)
    if not 0 <= number <= value_max:
        raise ValueError(f"{name} is {value}: it is not within 0 and {value_max:#x}")
    return number


cdef int _width(width) except 0:
    """In bytes."""
    if width not in (16, 32):
        raise ValueError(f"width is {width}: it is 16 or 32 bits")
    return width // 8


cdef object _out(out, Py_ssize_t n):
    return array("H", bytes(2 * n)) if out is None else out


cdef int _same_count(str name, _View view, Py_ssize_t n) except -1:
    if view.count() != n:
        raise ValueError(f"{name} has {view.count()} numbers, not {n}")
    return 0


cdef Py_ssize_t _first_outside(
    const uint32_t *offset, const uint32_t *size, Py_ssize_t n, size_t buffer_size
) noexcept nogil:
    """The first range that is not within the buffer, or -1."""
    cdef Py_ssize_t i
    for i in range(n):
        if size[i] > buffer_size or offset[i] > buffer_size - size[i]:
            return i
    return -1


cdef void _sum_each(
    const uint8_t *p, const uint32_t *offset, const uint32_t *size, uint16_t *result, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        result[i] = order_u16(<uint16_t>~checksum_fold(checksum_add(0, p + offset[i], size[i])))


cdef void _update_each16(
    const uint16_t *field, const uint16_t *old, const uint16_t *new, uint16_t *result, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        result[i] = checksum_apply(field[i], checksum_delta16(old[i], new[i]))


cdef void _update_each32(
    const uint16_t *field, const uint32_t *old, const uint32_t *new, uint16_t *result, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        result[i] = checksum_apply(field[i], checksum_delta32(old[i], new[i]))
