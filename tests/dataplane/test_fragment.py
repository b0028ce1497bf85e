"""How packets are cut to the MTU."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_NOP, IPOption_Router_Alert, IPOption_RR, defragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from arcbox_net.dataplane._testing_fragments import Stages
from arcbox_net.dataplane.verdict import Verdict
from tests.support.packets import NEEDS_CSUM, header

SRC, DST = "203.0.113.1", "198.51.100.7"
PAYLOAD = bytes(range(256)) * 260


def packet(size: int, **fields: object) -> bytes:
    return bytes(IP(src=SRC, dst=DST, **fields) / UDP(sport=5000, dport=53) / Raw(PAYLOAD[:size]))


def cut(data: bytes, mtu: int, **fields: object) -> list[IP]:
    """The fragments of *data*, each of which has a right header checksum."""
    s = Stages()
    assert s.cut(data, mtu, **fields) == Verdict.VERDICT_FRAGMENTED  # type: ignore[arg-type]
    found = []
    for _, virtio, frame in s.emitted():
        assert virtio == bytes(12)
        parsed = IP(frame)
        again = IP(frame)
        del again.chksum, again.len
        assert bytes(again) == frame
        found.append(parsed)
    return found


@given(size=st.integers(0, 9000), mtu=st.integers(68, 3000))
def test_n13_fragments_are_in_order_fit_the_mtu_and_make_the_packet_again(size: int, mtu: int) -> None:
    parts = cut(packet(size), mtu)
    at = 0
    for part in parts:
        assert part.frag * 8 == at
        assert part.len <= mtu
        assert part.flags == ("MF" if part is not parts[-1] else 0)
        at += len(part.payload)
    assert b"".join(bytes(part.payload) for part in parts) == packet(size)[20:]
    assert len({part.id for part in parts}) == 1


def test_scapy_joins_what_was_cut() -> None:
    [joined] = defragment(cut(packet(5000), 1500))
    assert bytes(joined[UDP].payload) == PAYLOAD[:5000]


def test_a_packet_that_fits_stays_one_and_may_still_be_fragmented() -> None:
    [part] = cut(packet(1472, flags="DF"), 1500)
    assert (part.flags, part.frag, len(part)) == (0, 0, 1500)


def test_one_byte_more_than_the_mtu_makes_two() -> None:
    assert [part.len for part in cut(packet(1473), 1500)] == [1500, 21]


def test_the_least_mtu_leaves_room_for_eight_bytes_behind_any_header() -> None:
    parts = cut(packet(100, options=[IPOption_NOP()] * 40), 20)
    assert [part.len for part in parts] == [68] * 13 + [64]


def test_only_options_that_are_copied_are_in_later_fragments() -> None:
    route = IPOption_RR(routers=["0.0.0.0"] * 2)
    parts = cut(packet(3000, options=[IPOption_Router_Alert(), route]), 1500)
    first, second = (bytes(part)[20 : part.ihl * 4] for part in parts[:2])
    assert first[:4] == second[:4] == bytes(IPOption_Router_Alert())
    assert first[4:15] == bytes(route)
    assert second[4:15] == b"\x01" * 11


def test_ttl_and_type_of_service_stay() -> None:
    assert {(part.ttl, part.tos) for part in cut(packet(3000, ttl=7, tos=0x2E), 1500)} == {(7, 0x2E)}


def test_each_fragment_has_the_ethernet_header() -> None:
    s = Stages(l3=14)
    link = bytes(Ether(src="02:00:00:00:00:09", dst="02:00:00:00:00:01", type=0x800))
    s.cut(link + packet(3000), 1500)
    assert {frame[:14] for _, _, frame in s.emitted()} == {link}


def test_bytes_behind_the_packet_are_no_part_of_it() -> None:
    assert b"".join(bytes(p.payload) for p in cut(packet(1600) + b"padding", 1500)) == packet(1600)[20:]


@given(size=st.integers(1500, 4000))
def test_a_partial_checksum_is_finished_before_the_packet_is_cut(size: int) -> None:
    whole = packet(size)
    pseudo = struct.pack("!4s4sHH", whole[12:16], whole[16:20], 17, size + 8)
    partial = sum(struct.unpack("!6H", pseudo))
    partial = (partial & 0xFFFF) + (partial >> 16)
    given_up = whole[:26] + partial.to_bytes(2) + whole[28:]
    parts = cut(given_up, 1500, virtio=header(flags=NEEDS_CSUM, csum_start=20, csum_offset=6))
    assert b"".join(bytes(part.payload) for part in parts) == whole[20:]


@pytest.mark.parametrize(
    "virtio",
    [
        pytest.param(
            header(flags=NEEDS_CSUM, gso_type=1, gso_size=1448, csum_start=20, csum_offset=16), id="gso"
        ),
        pytest.param(header(flags=NEEDS_CSUM, csum_start=3000, csum_offset=60), id="checksum-outside"),
    ],
)
def test_what_cannot_be_cut_is_too_big(virtio: bytes) -> None:
    s = Stages()
    assert s.cut(packet(3000), 1500, virtio=virtio) == Verdict.DROP_TOO_BIG
    assert s.emitted() == []


def test_n13_identifications_between_two_hosts_repeat_only_after_all_others() -> None:
    s = Stages()
    seen = [s.id_next(0x010071CB, 0x076433C6, 17) for _ in range(65536)]
    assert len(set(seen)) == 65536


def test_identifications_differ_with_the_seed_and_spread_over_counters() -> None:
    first, second = (Stages(seed=(n, n + 1)) for n in (5, 6))
    assert first.id_next(1, 2, 17) != second.id_next(1, 2, 17)
    firsts = Counter(first.id_next(1, destination, 17) for destination in range(1000))
    assert firsts.most_common(1)[0][1] < 10
