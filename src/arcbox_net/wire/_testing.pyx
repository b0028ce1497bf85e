"""What tests need of sums and updates that has no Python face. Fields and values are as they are in memory."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from arcbox_net.abi.checksum cimport abx_sum_find, abx_sum_kernel
from arcbox_net.wire.checksum cimport (
    checksum_apply, checksum_apply_partial, checksum_apply_udp, checksum_delta16, checksum_delta32,
    checksum_delta128, checksum_fold,
)

from arcbox_net.wire.octets cimport load_u16_be, load_u32_be


def sum_by(int vector_bytes, bytes data, size_t offset, size_t size):
    """The folded sum of a part of *data* by the kernel with such vectors; None when this CPU has none."""
    cdef abx_sum_kernel kernel = abx_sum_find(vector_bytes)
    if kernel == NULL:
        return None
    if size > <size_t>len(data) or offset > len(data) - size:
        raise ValueError(f"{size} bytes at {offset} of {len(data)}")
    return checksum_fold(kernel(0, <const uint8_t *>data + offset, size))


def delta(bytes old, bytes new):
    """The delta of a change between fields of 2, 4 or 16 octets."""
    if len(old) == 2:
        return checksum_delta16(load_u16_be(old), load_u16_be(new))
    if len(old) == 4:
        return checksum_delta32(load_u32_be(old), load_u32_be(new))
    return checksum_delta128(old, new)


def apply(uint16_t field, uint32_t change):
    return checksum_apply(field, change)


def apply_partial(uint16_t field, uint32_t change):
    return checksum_apply_partial(field, change)


def apply_udp(uint16_t field, uint32_t change):
    return checksum_apply_udp(field, change)
