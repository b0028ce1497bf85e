"""How fragments that reach a TUN become packets again."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from arcbox_net.relay._testing_datagram import join

VIRTIO = bytes(12)
SLOTS = 4


def cut4(payload: bytes, *, identification: int = 7, at: int = 1480, options: bool = False) -> list[bytes]:
    """The frames of an IPv4 datagram to 198.51.100.1, in fragments with *at* bytes each."""
    ends = {"src": "192.0.2.2", "dst": "198.51.100.1"}
    whole = bytes(IP(**ends) / UDP(sport=1000, dport=2000) / Raw(payload))[20:]
    extra = {"options": b"\x01\x01\x01\x00"} if options else {}
    return [
        VIRTIO
        + bytes(
            IP(
                **ends,
                id=identification,
                proto=17,
                flags="MF" if i + at < len(whole) else 0,
                frag=i // 8,
                **extra,
            )
            / Raw(whole[i : i + at])
        )
        for i in range(0, len(whole), at)
    ]


def cut6(payload: bytes, *, identification: int = 7, at: int = 1448) -> list[bytes]:
    head = IPv6(src="fd00::2", dst="2001:db8::1", nh=17)
    whole = bytes(head / UDP(sport=1000, dport=2000) / Raw(payload))[40:]
    return [
        VIRTIO
        + bytes(
            IPv6(src="fd00::2", dst="2001:db8::1")
            / IPv6ExtHdrFragment(id=identification, nh=17, m=int(i + at < len(whole)), offset=i // 8)
            / Raw(whole[i : i + at])
        )
        for i in range(0, len(whole), at)
    ]


cuts = pytest.mark.parametrize("cut", [cut4, cut6], ids=["ipv4", "ipv6"])


@cuts
@pytest.mark.parametrize("size", [1, 2000, 9000, 65499])
def test_fragments_in_order_become_the_packet(cut, size: int) -> None:  # type: ignore[no-untyped-def]
    payload = bytes(range(256)) * 256
    frames = cut(payload[:size], at=1448 if size > 1 else 8)
    *waiting, packet = join(frames)
    assert waiting == [None] * (len(frames) - 1)
    version = IP if cut is cut4 else IPv6
    parsed = version(packet[12:])
    assert bytes(parsed[UDP].payload) == payload[:size]
    again = version(bytes(parsed))
    del again[UDP].chksum
    assert version(bytes(again))[UDP].chksum == parsed[UDP].chksum
    if cut is cut4:
        del again[IP].chksum
        assert IP(bytes(again)).chksum == parsed.chksum
        assert (parsed.flags, parsed.frag) == (0, 0)


def test_options_of_the_first_fragment_stay() -> None:
    packet = join(cut4(bytes(3000), options=True))[-1]
    assert isinstance(packet, bytes)
    assert IP(packet[12:]).ihl == 6


@cuts
def test_packets_that_are_interleaved_are_told_apart(cut) -> None:  # type: ignore[no-untyped-def]
    several = [cut(bytes([n]) * 4000, identification=n) for n in range(SLOTS)]
    found = join([frame for row in zip(*several, strict=True) for frame in row])
    assert [packet[-1] for packet in found if packet] == list(range(SLOTS))


@cuts
def test_one_packet_more_than_there_is_room_for_costs_the_oldest(cut) -> None:  # type: ignore[no-untyped-def]
    several = [cut(bytes([n]) * 4000, identification=n) for n in range(SLOTS + 1)]
    found = join([frame for row in zip(*several, strict=True) for frame in row])
    assert [packet[-1] for packet in found if packet] == list(range(1, SLOTS + 1))


@cuts
@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (0, 0, 2), (1, 2), (0, 2)], ids=lambda order: str(order)
)
def test_fragments_that_do_not_follow_each_other_make_no_packet(cut, order) -> None:  # type: ignore[no-untyped-def]
    frames = cut(bytes(4000))
    found = join([frames[i] for i in order])
    assert not any(found)
    assert False in found


def test_f3_a_packet_longer_than_any_can_be_is_dropped() -> None:
    frames = cut4(bytes(65000), at=1480)
    longer = bytearray(frames[-1][:12] + frames[0][12:])
    struct.pack_into("!H", longer, 12 + 6, 0x2000 | 43 * 1480 // 8)
    last = bytearray(frames[0])
    struct.pack_into("!H", last, 12 + 6, 44 * 1480 // 8)
    found = join([*frames[:43], bytes(longer), bytes(last)])
    assert not any(found)
    assert found[-2:] == [None, False]


def test_f8_a_part_in_the_middle_that_ends_in_the_middle_of_a_word_is_dropped() -> None:
    frames = cut4(bytes(4000))
    odd = bytearray(frames[0][:-1])
    struct.pack_into("!H", odd, 12 + 2, len(odd) - 12)
    assert join([bytes(odd)]) == [False]


def test_f5_an_empty_part_is_dropped() -> None:
    empty = VIRTIO + bytes(IP(src="192.0.2.2", dst="198.51.100.1", id=7, proto=17, flags="MF"))
    assert join([empty]) == [False]


@given(st.lists(st.binary(max_size=120), max_size=12))
def test_any_bytes_are_survived(rests: list[bytes]) -> None:
    heads = [VIRTIO + b"\x45\x00", VIRTIO + b"\x60\x00", b""]
    join([heads[i % 3] + rest for i, rest in enumerate(rests)])


@given(st.data())
def test_a_packet_that_is_made_consists_of_its_parts_in_order(data: st.DataObject) -> None:
    frames = [frame for n in range(3) for frame in cut4(bytes([n]) * 3000, identification=n)]
    order = data.draw(st.lists(st.sampled_from(frames), max_size=20))
    for packet in join(order):
        if packet:
            assert isinstance(packet, bytes)
            payload = bytes(IP(packet[12:])[UDP].payload)
            assert len(payload) == 3000 and len(set(payload)) == 1
