"""The sum kernels and the updates of RFC 1624 as compiled code uses them."""

from __future__ import annotations

import random
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.wire._testing import apply, apply_partial, apply_udp, delta, sum_by

SCALAR = 4
VECTORS = (16, 32, 64)
fields = st.integers(0, 0xFFFF)


def words_of(data: bytes) -> int:
    """The sum that RFC 1071 describes, in the machine's order, not folded."""
    data += bytes(len(data) % 2)
    return sum(int.from_bytes(data[i : i + 2], sys.byteorder) for i in range(0, len(data), 2))


def folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(data=st.binary(max_size=200))
def test_the_scalar_sum_is_that_of_the_words(data: bytes) -> None:
    assert sum_by(SCALAR, data, 0, len(data)) == folded(words_of(data))


@pytest.mark.parametrize("vector_bytes", VECTORS)
def test_vectors_sum_every_size_at_every_offset_as_the_scalar_does(vector_bytes: int) -> None:
    if sum_by(vector_bytes, b"", 0, 0) is None:
        pytest.skip(f"this CPU has no vectors of {vector_bytes} bytes")
    data = random.Random(vector_bytes).randbytes(1200 + 64)
    for offset in range(64):
        for size in (*range(513), *range(1016, 1032), 1199, 1200):  # long ones are aligned first
            assert sum_by(vector_bytes, data, offset, size) == sum_by(SCALAR, data, offset, size), (
                offset,
                size,
            )


@pytest.mark.parametrize("vector_bytes", (SCALAR, *VECTORS))
@pytest.mark.parametrize("size", [65535, 65536, (1 << 24) + 1])
def test_no_carry_is_lost_in_a_long_sum_of_the_largest_words(vector_bytes: int, size: int) -> None:
    data = b"\xff" * (size + 1)
    found = sum_by(vector_bytes, data, 1, size)
    if found is None:
        pytest.skip(f"this CPU has no vectors of {vector_bytes} bytes")
    odd = int.from_bytes(b"\xff\x00", sys.byteorder) if size % 2 else 0
    assert found == folded(0xFFFF * (size // 2) + odd)


@given(old=st.binary(min_size=16, max_size=16), new=st.binary(min_size=16, max_size=16), field=fields)
@pytest.mark.parametrize("width", [2, 4, 16])
def test_an_update_is_the_sum_of_the_new_words(width: int, old: bytes, new: bytes, field: int) -> None:
    """Seen from the rest of what is summed, which is what the old field says it is."""
    old, new = old[:width], new[:width]
    rest = folded((~field & 0xFFFF) + 0xFFFF * width - words_of(old))
    changed = apply(field, delta(old, new))
    assert folded(rest + words_of(new)) % 0xFFFF == (~changed & 0xFFFF) % 0xFFFF


@given(
    field=fields,
    changes=st.lists(st.tuples(st.binary(min_size=2, max_size=2), st.binary(min_size=4, max_size=4))),
)
def test_deltas_of_several_changes_add_up(field: int, changes: list[tuple[bytes, bytes]]) -> None:
    one_by_one, together = field, 0
    for small, large in changes:
        for change in (delta(bytes(2), small), delta(b"\xff" * 4, large)):
            one_by_one = apply(one_by_one, change)
            together += change
    assert apply(field, together) % 0xFFFF == one_by_one % 0xFFFF
    assert apply(field, folded(together)) == apply(field, together)


@given(field=fields, old=st.binary(min_size=4, max_size=4), new=st.binary(min_size=4, max_size=4))
def test_a_partial_checksum_follows_as_the_sum_that_it_is(field: int, old: bytes, new: bytes) -> None:
    change = delta(old, new)
    assert apply_partial(field, change) == ~apply(~field & 0xFFFF, change) & 0xFFFF


def test_udp_without_a_checksum_stays_without() -> None:
    for change in (0, 1, 0xFFFF, 0x1FFFE, 0x12345):
        assert apply_udp(0, change) == 0


def test_a_computed_zero_is_sent_as_all_ones_over_udp() -> None:
    for field in range(1, 0x10000):
        to_zero = delta(bytes(2), field.to_bytes(2, sys.byteorder))
        assert apply(field, to_zero) == 0
        assert apply_udp(field, to_zero) == 0xFFFF


@given(field=st.integers(1, 0xFFFF), change=st.integers(0, 0x3FFFC))
def test_other_udp_checksums_are_updated_as_any(field: int, change: int) -> None:
    assert apply_udp(field, change) == (apply(field, change) or 0xFFFF)
