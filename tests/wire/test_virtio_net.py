"""What a virtio_net_hdr may say of the frame behind it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.wire._testing_headers import virtio_fits

NEEDS_CSUM, DATA_VALID, RSC = 1, 2, 4
TCPV4, UFO, TCPV6, UDP_L4, ECN = 1, 3, 4, 5, 0x80
SIZE = 1514


def header(
    flags: int = 0, gso: int = 0, header_length: int = 0, gso_size: int = 0, start: int = 0, offset: int = 0
) -> bytes:
    return struct.pack("=BBHHHHH", flags, gso, header_length, gso_size, start, offset, 0)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(header(), id="nothing"),
        pytest.param(header(DATA_VALID), id="verified"),
        pytest.param(header(NEEDS_CSUM, start=34, offset=16), id="partial"),
        pytest.param(header(NEEDS_CSUM, start=SIZE - 18, offset=16), id="field at the very end"),
        pytest.param(header(NEEDS_CSUM, start=0, offset=SIZE - 2), id="offset to the very end"),
        pytest.param(header(header_length=SIZE), id="all of it is header"),
        *(
            pytest.param(header(NEEDS_CSUM, kind, 54, 1, 34, 16), id=f"gso-{kind:#x}")
            for kind in (TCPV4, TCPV6, TCPV4 | ECN, TCPV6 | ECN, UDP_L4)
        ),
    ],
)
def test_a_header_that_lies_within_its_frame_is_taken(one: bytes) -> None:
    assert virtio_fits(one, SIZE)


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(header(RSC), id="unknown flag"),
        pytest.param(header(header_length=SIZE + 1), id="header past the frame"),
        pytest.param(header(NEEDS_CSUM, start=SIZE - 17, offset=16), id="field a byte past the end"),
        pytest.param(header(NEEDS_CSUM, start=0, offset=SIZE - 1), id="offset a byte past the end"),
        pytest.param(header(NEEDS_CSUM, start=65535, offset=65535), id="a sum that wraps"),
        pytest.param(header(NEEDS_CSUM, start=65535, offset=3), id="a sum that wraps to 2"),
        pytest.param(header(NEEDS_CSUM, TCPV4, 54, 0, 34, 16), id="segments of no size"),
        pytest.param(header(0, TCPV4, 54, 1460), id="segments without checksums"),
        pytest.param(header(DATA_VALID, TCPV4, 54, 1460), id="verified segments"),
        pytest.param(header(NEEDS_CSUM, UFO, 54, 1460, 34, 16), id="UFO"),
        pytest.param(header(NEEDS_CSUM, 2, 54, 1460, 34, 16), id="unknown segments"),
        pytest.param(header(NEEDS_CSUM, ECN, 54, 1460, 34, 16), id="ECN of nothing"),
        pytest.param(header(NEEDS_CSUM, UDP_L4 | ECN, 54, 1460, 34, 16), id="ECN of UDP"),
    ],
)
def test_a_header_that_leads_outside_or_means_nothing_is_refused(one: bytes) -> None:
    """V32"""
    assert not virtio_fits(one, SIZE)


@given(raw=st.binary(min_size=12, max_size=12), size=st.integers(0, 70000))
def test_what_is_taken_never_leads_outside(raw: bytes, size: int) -> None:
    """V32"""
    flags, gso, length, gso_size, start, offset, _ = struct.unpack("=BBHHHHH", raw)
    if virtio_fits(raw, size):
        assert length <= size
        assert not flags & NEEDS_CSUM or start + offset + 2 <= size
        assert gso == 0 or gso_size > 0
