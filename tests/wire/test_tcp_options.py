"""TCP options: what is read of them, what is malformed, and the clamp."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.wire._testing_headers import clamped, tcp_options_of
from tests.support.packets import IP, TCP

NOP, END, MSS, SCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 1, 0, 2, 3, 4, 5, 8


def segment(*octets: int, flags: str = "S") -> bytes:
    options = bytes(octets) + bytes(-len(octets) % 4)
    return bytes(TCP(flags=flags, dataofs=5 + len(options) // 4)) + options


def read(raw: bytes) -> dict[str, Any]:
    found = tcp_options_of(raw)
    assert found is not None
    return found


@given(
    mss=st.none() | st.integers(0, 0xFFFF),
    scale=st.none() | st.integers(0, 255),
    sack=st.booleans(),
    stamps=st.none() | st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF)),
    order=st.randoms(use_true_random=False),
)
def test_options_of_a_syn_are_read_as_scapy_writes_them(
    mss: int | None, scale: int | None, sack: bool, stamps: tuple[int, int] | None, order: Any
) -> None:
    offered: list[tuple[str, Any]] = [("NOP", None)]
    offered += [("MSS", mss)] if mss is not None else []
    offered += [("WScale", scale)] if scale is not None else []
    offered += [("SAckOK", b"")] if sack else []
    offered += [("Timestamp", stamps)] if stamps is not None else []
    order.shuffle(offered)
    found = read(bytes(TCP(flags="S", options=offered)))
    assert (found["mss_offset"] > 0, found["mss"]) == (mss is not None, mss or 0)
    assert found["has_window_scale"] == (scale is not None)
    assert found["window_scale"] == min(scale or 0, 14)
    assert found["sack_permitted"] == sack
    assert found["has_timestamps"] == (stamps is not None)
    assert (found["timestamp"], found["timestamp_echo"]) == (stamps or (0, 0))


@pytest.mark.parametrize(("scale", "taken"), [(0, 0), (14, 14), (15, 14), (255, 14)])
def test_a_window_scale_is_fourteen_at_most(scale: int, taken: int) -> None:
    """T20"""
    assert read(segment(SCALE, 3, scale))["window_scale"] == taken


def test_what_only_a_syn_agrees_on_is_ignored_later() -> None:
    """T20"""
    raw = segment(MSS, 4, 5, 0xB4, SCALE, 3, 7, SACK_PERMITTED, 2, TIMESTAMPS, 10, *range(8), flags="A")
    found = read(raw)
    assert (found["mss_offset"], found["has_window_scale"], found["sack_permitted"]) == (0, False, False)
    assert found["timestamp"] == 0x00010203


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param((MSS, 0, 5, 0xB4), id="length 0"),
        pytest.param((MSS, 1, 5, 0xB4), id="length 1"),
        pytest.param((NOP, MSS, 4, 5), id="a byte past the header"),
        pytest.param((NOP, NOP, NOP, MSS), id="no room for its length"),
        pytest.param((MSS, 255, 5, 0xB4), id="length 255"),
        pytest.param((200, 5, 0, 0), id="unknown, past the header"),
        pytest.param((*[NOP] * 39, SACK), id="in the last of 40 bytes"),
    ],
)
def test_a_malformed_option_is_told(octets: tuple[int, ...]) -> None:
    """T23"""
    assert tcp_options_of(segment(*octets)) is None


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param((*[NOP] * 40,), id="40 NOPs"),
        pytest.param((END, MSS, 0, 0), id="behind the end"),
        pytest.param((200, 4, 0, 0), id="unknown, to the last byte"),
        pytest.param((*[NOP] * 38, 200, 2), id="in the last two bytes"),
        pytest.param((MSS, 3, 5, NOP), id="MSS of another size"),
        pytest.param((SCALE, 4, 5, 5), id="window scale of another size"),
    ],
)
def test_an_option_that_is_not_understood_is_passed_over(octets: tuple[int, ...]) -> None:
    """T23"""
    found = read(segment(*octets))
    assert not any(found.values())


@given(octets=st.binary(max_size=40))
def test_any_options_are_walked_to_an_end(octets: bytes) -> None:
    tcp_options_of(segment(*octets))


@pytest.mark.parametrize("mss", [0, 1, 536, 1460, 1461, 65535])
@pytest.mark.parametrize("ahead", [0, 1], ids=["even", "odd"])
@pytest.mark.parametrize("size", [0, 3])
def test_a_large_mss_is_lowered_and_the_checksum_stays_right(mss: int, ahead: int, size: int) -> None:
    """T19"""
    options = [*[("NOP", None)] * ahead, ("MSS", mss), ("WScale", 7)]
    packet = IP(dst="192.0.2.1") / TCP(flags="S", seq=0xFFFFFFFF, options=options) / bytes(size)
    raw = bytes(packet)
    lowered, after = clamped(raw[20:], 1460)
    assert lowered is (mss > 1460)
    assert read(after)["mss"] == min(mss, 1460)
    rebuilt = IP(raw[:20] + after)
    del rebuilt[TCP].chksum
    assert bytes(rebuilt)[20:] == after


def test_a_partial_checksum_is_left_alone() -> None:
    """T19, T25: it does not cover the options yet."""
    raw = bytes(TCP(flags="S", chksum=0x1234, options=[("MSS", 9000)]))
    lowered, after = clamped(raw, 1460, partial=True)
    assert lowered
    assert after[16:18] == raw[16:18]
    assert read(after)["mss"] == 1460


def test_a_segment_without_an_mss_stays_as_it_is() -> None:
    """T19: the defaults of 536 and 1220 are the receiver's to assume."""
    for raw in (segment(), segment(MSS, 4, 0x23, 0x28, flags="A")):
        assert clamped(raw, 1460) == (False, raw)
