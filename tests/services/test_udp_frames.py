"""UDP datagrams in frames, against scapy."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from arcbox_net.services.udp_frames import Datagram, unwrap, wrap
from tests.services.dhcp.site import GUEST, MAC_A, MAC_B, SERVER, frame


def test_the_payload_and_its_sender_come_out() -> None:
    found = unwrap(frame())
    assert found is not None and found.payload == b"hello"
    assert (found.src_mac, found.dst_mac) == (MAC_A, b"\xff" * 6)
    assert (found.src_ip, found.dst_ip) == (int(IPv4Address(GUEST)), int(IPv4Address(SERVER)))
    assert (found.src_port, found.dst_port) == (68, 67)


def test_ethernet_padding_is_no_payload() -> None:
    found = unwrap(frame() + b"\xa5" * 30)
    assert found is not None and found.payload == b"hello"


def test_ip_options_are_skipped() -> None:
    found = unwrap(frame(options=[b"\x94\x04\0\0"]))
    assert found is not None and found.payload == b"hello"


def test_a_checksum_left_to_the_device_is_no_reason_to_drop() -> None:
    assert unwrap(frame(chksum=0)) is not None


@pytest.mark.parametrize("at", [14, 30, 36, 40, 42], ids=["tos", "address", "port", "udp-sum", "payload"])
def test_one_flipped_bit_is_seen_where_checksums_are_to_be_right(at: int) -> None:
    good = frame()
    assert unwrap(good, verified=True) is not None
    bad = bytearray(good)
    bad[at] ^= 0x10 if at == 14 else 1
    assert unwrap(bytes(bad), verified=True) is None


def test_a_datagram_without_a_checksum_is_right() -> None:
    bare = bytearray(frame())
    bare[40:42] = bytes(2)
    assert unwrap(bytes(bare), verified=True) is not None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(frame()[:41], id="cut-in-the-udp-header"),
        pytest.param(frame()[:-1], id="shorter-than-its-ip-length"),
        pytest.param(frame(len=27), id="ip-length-below-the-headers"),
        pytest.param(frame(len=65535), id="ip-length-past-the-end"),
        pytest.param(frame(len_udp=7), id="udp-length-below-its-header"),
        pytest.param(frame(len_udp=100), id="udp-length-past-the-end"),
        pytest.param(frame(ihl=4), id="ihl-4"),
        pytest.param(frame(ihl=15), id="ihl-15"),
        pytest.param(frame(version=6), id="version-6"),
        pytest.param(frame(proto=6), id="tcp"),
        pytest.param(frame(flags="MF"), id="first-fragment"),
        pytest.param(frame(frag=1), id="later-fragment"),
        pytest.param(frame(dport=68), id="another-port"),
    ],
)
def test_what_is_no_whole_datagram_for_us_is_dropped(bad: bytes) -> None:
    assert unwrap(bad, dst_port=67) is None


@given(st.binary(max_size=120))
def test_no_bytes_raise(data: bytes) -> None:
    unwrap(data, verified=True)
    unwrap(frame()[: len(data)] + data, verified=True)


@given(st.binary(max_size=1500), st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
def test_both_checksums_are_what_scapy_computes(payload: bytes, src: int, dst: int) -> None:
    datagram = Datagram(MAC_A, MAC_B, src, dst, 67, 68, payload)
    built = wrap(datagram)
    seen = Ether(built)
    assert (seen.src, seen.dst) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    assert (seen[IP].src, seen[IP].dst, seen[IP].ttl) == (str(IPv4Address(src)), str(IPv4Address(dst)), 64)
    assert (seen[UDP].sport, seen[UDP].dport) == (67, 68)
    again = Ether(built)
    del again[IP].chksum, again[UDP].chksum
    assert bytes(again) == built
    assert unwrap(built, dst_port=68, verified=True) == datagram
