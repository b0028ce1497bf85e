"""The public checksum functions: numbers as packets have them, one at a time and in batches."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from arcbox_net import (
    checksum,
    checksum_batch,
    incremental_checksum_update,
    incremental_checksum_update_batch,
    pseudo_header_checksum,
)
from tests.support.packets import ICMP, IP, TCP, UDP, IPv6

ALL_WORDS = array("H", range(0x10000))


@given(data=st.binary(max_size=300), initial=st.integers(0, 0xFFFF))
def test_a_checksum_is_that_of_scapy(data: bytes, initial: int) -> None:
    assert checksum(data) == scapy_checksum(data)
    assert checksum(data, initial) == scapy_checksum(initial.to_bytes(2, "big") + data)


def test_a_packet_with_its_checksum_sums_to_zero() -> None:
    packet = bytes(IP(src="192.0.2.1", dst="198.51.100.7") / ICMP() / b"odd")
    assert checksum(packet[:20]) == 0
    assert checksum(memoryview(packet)[20:]) == 0


@pytest.mark.parametrize("layer", [TCP(sport=1, dport=2), UDP(sport=1, dport=2)], ids=["tcp", "udp"])
@pytest.mark.parametrize(
    "ip",
    [IP(src="192.0.2.1", dst="198.51.100.7"), IPv6(src="2001:db8::1", dst="2001:db8::2")],
    ids=["4", "6"],
)
def test_a_pseudo_header_begins_the_checksum_of_a_segment(ip: Any, layer: Any) -> None:
    packet = type(ip)(bytes(ip / layer / b"payload"))
    segment = bytes(packet.payload)
    protocol = 6 if layer.name == "TCP" else 17
    assert checksum(segment, pseudo_header_checksum(ip.src, ip.dst, protocol, len(segment))) == 0


def test_an_update_of_any_value_is_the_checksum_of_the_new_bytes() -> None:
    """N30: all old values, each among others at random, and new ones at random."""
    rng = random.Random(1624)
    rest = [rng.randrange(0x10000) for _ in range(0x10000)]
    new = array("H", (rng.randrange(0x10000) for _ in range(0x10000)))
    found = incremental_checksum_update_batch(_checksums(rest, ALL_WORDS), ALL_WORDS, new)
    assert found == _checksums(rest, new)


def _checksums(rest: list[int], words: array[int]) -> array[int]:
    """Of the packets that are two words, one of *rest* and one of *words*, and a third that is not zero."""
    packets = b"".join(
        b"\x40\x11" + one.to_bytes(2, "big") + other.to_bytes(2, "big")
        for one, other in zip(rest, words, strict=True)
    )
    n = len(rest)
    return checksum_batch(packets, array("I", range(0, 6 * n, 6)), array("I", [6] * n))


@given(data=st.binary(min_size=8, max_size=64), at=st.integers(0, 30), new=st.binary(min_size=4, max_size=4))
@pytest.mark.parametrize("width", [16, 32])
def test_an_update_at_any_even_offset_is_a_recompute(width: Any, data: bytes, at: int, new: bytes) -> None:
    size = width // 8
    packet = bytearray(b"\x45" + data)  # a header is never all zero
    at = 2 * (at % ((len(packet) - size) // 2 + 1)) if len(packet) > size else 0
    old, new = bytes(packet[at : at + size]), new[:size]
    before = checksum(packet)
    packet[at : at + size] = new
    found = incremental_checksum_update(before, int.from_bytes(old), int.from_bytes(new), width=width)
    if any(packet):
        assert found == checksum(packet)


@pytest.mark.parametrize(
    ("old_checksum", "old", "new", "expected"),
    [
        pytest.param(0xDD2F, 0x5555, 0x3285, 0x0000, id="RFC 1624, section 4"),
        pytest.param(0x0000, 0x0000, 0x0000, 0x0000, id="zeros"),
        pytest.param(0x0000, 0x0000, 0xFFFF, 0x0000, id="minus zero for zero"),
        pytest.param(0x0000, 0xFFFF, 0x0000, 0x0000, id="zero for minus zero"),
        pytest.param(0xFFFE, 0x0001, 0x0000, 0x0000, id="nothing but zeros is left: minus zero"),
        pytest.param(0x0000, 0x1234, 0x1235, 0xFFFE, id="a borrow"),
    ],
)
def test_update_at_the_corners(old_checksum: int, old: int, new: int, expected: int) -> None:
    assert incremental_checksum_update(old_checksum, old, new) == expected
    batch = incremental_checksum_update_batch(
        array("H", [old_checksum]), array("H", [old]), array("H", [new])
    )
    assert list(batch) == [expected]


@pytest.mark.parametrize(("width", "kind"), [(16, "H"), (32, "I")])
def test_a_batch_of_updates_is_each_one(width: Any, kind: str) -> None:
    rng = random.Random(width)
    sums = array("H", (rng.randrange(1 << 16) for _ in range(500)))
    old, new = (array(kind, (rng.randrange(1 << width) for _ in range(500))) for _ in range(2))
    expected = [incremental_checksum_update(*each, width=width) for each in zip(sums, old, new, strict=True)]
    assert list(incremental_checksum_update_batch(sums, old, new, width=width)) == expected
    assert incremental_checksum_update_batch(sums, old, new, width=width, out=sums) is sums
    assert list(sums) == expected


def test_a_batch_of_checksums_is_each_one() -> None:
    rng = random.Random(7)
    data = rng.randbytes(10_000)
    sizes = array("I", (rng.randrange(2000) for _ in range(200)))
    offsets = array("I", (rng.randrange(len(data) - size + 1) for size in sizes))
    out = array("H", bytes(400))
    assert checksum_batch(data, offsets, sizes, out) is out
    assert list(out) == [checksum(data[at : at + size]) for at, size in zip(offsets, sizes, strict=True)]


def test_a_batch_may_reach_the_end_of_the_buffer_and_no_further() -> None:
    out = array("H", [7, 7])
    assert checksum_batch(bytes(100), array("I", [100, 0]), array("I", [0, 100]), out) is out
    out = array("H", [7, 7])
    for offset, size in ((100, 1), (101, 0), (0, 101), (0xFFFFFFFF, 0xFFFFFFFF)):
        with pytest.raises(ValueError, match=rf"item 1: {size} bytes at {offset} of a buffer of 100"):
            checksum_batch(bytes(100), array("I", [0, offset]), array("I", [1, size]), out)
    assert list(out) == [7, 7], "nothing is written when a range is outside"


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: checksum("text"), TypeError, "bytes-like"),
        (lambda: checksum(b"", 0x10000), ValueError, "initial is 65536"),
        (lambda: checksum(b"", -1), ValueError, "initial is -1"),
        (lambda: checksum(b"", 1.5), TypeError, "float"),
        (lambda: incremental_checksum_update(0, 0x10000, 0), ValueError, "old_value is 65536"),
        (lambda: incremental_checksum_update(0, 0, 1 << 32, width=32), ValueError, "new_value is 4294967296"),
        (lambda: incremental_checksum_update(0x10000, 0, 0), ValueError, "old_checksum is 65536"),
        (lambda: incremental_checksum_update(0, 0, 0, width=64), ValueError, "width is 64"),
        (lambda: pseudo_header_checksum("192.0.2.1", "::1", 6, 20), ValueError, "two IP versions"),
        (lambda: pseudo_header_checksum("192.0.2.1", "192.0.2.2", 256, 20), ValueError, "protocol is 256"),
        (lambda: checksum_batch(b"", array("H"), array("I")), TypeError, "offsets has format 'H'"),
        (lambda: checksum_batch(b"", array("I"), array("I", [1])), ValueError, "sizes has 1 numbers, not 0"),
        (lambda: checksum_batch(b"", array("i"), array("I")), TypeError, "offsets has format 'i'"),
        (lambda: checksum_batch(b"", array("I"), array("I"), b""), BufferError, "not writable"),
        (
            lambda: incremental_checksum_update_batch(array("H"), array("H"), array("H"), width=32),
            TypeError,
            "old_values has format 'H': unsigned numbers of 32 bits",
        ),
        (
            lambda: incremental_checksum_update_batch(
                array("H"), array("H"), array("H"), out=array("H", [1])
            ),
            ValueError,
            "out has 1 numbers, not 0",
        ),
    ],
)
def test_what_cannot_be_summed_is_named(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_a_matrix_is_no_list_of_numbers() -> None:
    matrix = memoryview(bytes(16)).cast("I", (2, 2))
    with pytest.raises(TypeError, match="offsets has 2 dimensions"):
        checksum_batch(b"", matrix, matrix)


def test_a_read_only_out_is_refused_before_anything_is_written() -> None:
    with pytest.raises(BufferError):
        incremental_checksum_update_batch(array("H"), array("H"), array("H"), out=memoryview(b"").cast("H"))
