"""Which segments become a super-frame, and that cutting it gives them back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from arcbox_net.dataplane._testing_offload import CSUM, ECN, TSO4, TSO6, NotingPort
from tests.support.offload import (
    MSS,
    VNET_BYTES,
    interleaved,
    keeps_flows,
    partial,
    payload,
    payload_sizes,
    plain,
    super_tcp,
    tcp,
    udp,
)

TAKES = CSUM | TSO4 | TSO6 | ECN


def stretch(count: int, *, size: int = 100, first: int = 0, **fields: Any) -> list[bytes]:
    """Segments that follow one another, the first of them number *first* of its flow."""
    v6 = fields.pop("v6", False)
    ip = {} if v6 else {"id": 500}
    ip |= fields.pop("ip", {})
    return [
        plain(
            tcp(
                payload(size),
                v6=v6,
                **{"seq": 1000 + i * size, "ip": ip if v6 else {**ip, "id": ip["id"] + i}, **fields},
            )
        )
        for i in range(first, first + count)
    ]


def joined(frames: list[bytes], takes: int = TAKES, **split: int) -> list[bytes]:
    return NotingPort(takes=takes).send(frames, **split)


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
def test_a_stretch_becomes_what_its_sender_could_have_sent(v6: bool) -> None:
    whole = super_tcp(payload(40_000), v6=v6)
    segments = NotingPort().send([whole])
    assert joined(segments) == [whole]


@pytest.mark.parametrize(("head", "piece"), [(100, 700), (256, 1300)])
def test_segments_may_lie_in_pieces(head: int, piece: int) -> None:
    whole = super_tcp(payload(20_000))
    assert joined(NotingPort().send([whole]), head=head, piece=piece) == [whole]


def test_checksums_that_are_still_to_be_computed_stay_so() -> None:
    whole = super_tcp(payload(20_000))
    segments = NotingPort(takes=CSUM).send([whole])
    assert joined(segments) == [whole]


@pytest.mark.parametrize("takes", [0, CSUM, CSUM | TSO6])
def test_nothing_is_joined_for_a_port_that_does_not_take_it(takes: int) -> None:
    segments = stretch(3)
    assert joined(segments, takes) == segments


def test_push_ends_a_stretch() -> None:
    frames = [*stretch(2), *stretch(1, first=2, flags="PA"), *stretch(2, first=3)]
    result = joined(frames)
    assert payload_sizes(result) == [300, 200]
    assert [Ether(f[VNET_BYTES:])[TCP].flags for f in result] == ["PA", "A"]


def test_a_shorter_segment_is_the_last() -> None:
    last = plain(tcp(payload(60), seq=1200, ip={"id": 502}))
    after = plain(tcp(payload(60), seq=1260, ip={"id": 503}))
    assert payload_sizes(joined([*stretch(2), last, after])) == [260, 60]


def test_a_longer_segment_begins_a_stretch() -> None:
    frames = [*stretch(2), plain(tcp(payload(101), seq=1200, ip={"id": 502}))]
    assert payload_sizes(joined(frames)) == [200, 101]


UNLIKE = {
    "flags-fin": {"flags": "FA"},
    "flags-ece": {"flags": "AE"},
    "flags-cwr": {"flags": "AC"},
    "flags-urg": {"flags": "AU"},
    "flags-syn": {"flags": "SA"},
    "ack": {"ack": 78},
    "window": {"window": 8191},
    "urgent-pointer": {"urgptr": 1},
    "timestamps": {"options": [("NOP", None), ("NOP", None), ("Timestamp", (1, 3))]},
    "options-size": {"options": [("NOP", None)] * 4},
    "reserved-bits": {"reserved": 1},
    "gap": {"seq": 1101},
    "overlap": {"seq": 1099},
    "same-again": {"seq": 1000},
    "ttl": {"ip": {"ttl": 63}},
    "tos": {"ip": {"tos": 1}},
    "df": {"ip": {"flags": 0}},
    "fragment": {"ip": {"flags": "MF"}},
    "ip-checksum": {"ip": {"chksum": 0x1234}},
    "tcp-checksum": {"chksum": 0x1234},
}


@pytest.mark.parametrize("unlike", UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
def test_what_differs_is_not_joined(unlike: dict[str, Any], place: int) -> None:
    frames = stretch(2)
    if place == 0 and "seq" in unlike:
        unlike = {"seq": 2000}
    frames[place] = stretch(1, first=place, **unlike)[0]
    assert joined(frames) == frames


@pytest.mark.parametrize(
    "fields", [{"sport": 1}, {"dport": 1}, {"ip": {"src": "10.0.0.9"}}, {"ip": {"dst": "10.0.0.9"}}], ids=str
)
def test_flows_are_told_apart(fields: dict[str, Any]) -> None:
    """Each is joined with its own, in whatever order they come."""
    frames = [f for pair in zip(stretch(3), stretch(3, **fields), strict=True) for f in pair]
    assert payload_sizes(joined(frames)) == [300, 300]


def test_macs_are_told_apart() -> None:
    frames = stretch(2)
    frames[1] = frames[1][:VNET_BYTES] + b"\x02\0\0\0\0\x09" + frames[1][VNET_BYTES + 6 :]
    assert joined(frames) == frames


def test_identifications_count_only_without_df() -> None:
    again = {"id": 500, "flags": 0}
    frames = [*stretch(1, ip={"flags": 0}), plain(tcp(payload(100), seq=1100, ip=again))]
    assert joined(frames) == frames
    assert payload_sizes(joined(stretch(2, ip={"flags": 0}))) == [200]
    assert payload_sizes(joined([stretch(1)[0], plain(tcp(payload(100), seq=1100, ip={"id": 9}))])) == [200]


def test_a_segment_that_cannot_join_is_not_overtaken() -> None:
    """An acknowledgment without payload, in the middle of its flow's data."""
    bare = plain(tcp(b"", seq=1200, ip={"id": 502}))
    frames = [*stretch(2), bare, *stretch(2, first=2)]
    assert payload_sizes(joined(frames)) == [200, 0, 200]


def test_padding_is_no_payload() -> None:
    frames = [frame + b"\0\0" for frame in stretch(2, size=1)]
    assert joined(frames) == frames


def test_other_frames_stay_where_they_are() -> None:
    datagram = plain(udp(b"x"))
    frames = [datagram, *stretch(2), datagram]
    result = joined(frames)
    assert (result[0], result[2]) == (datagram, datagram)
    assert payload_sizes(result[1:2]) == [200]


def test_a_super_frame_is_within_what_ip_can_say() -> None:
    frames = stretch(64, size=MSS)
    result = joined(frames)
    assert sum(payload_sizes(result)) == 64 * MSS
    assert [Ether(f[VNET_BYTES:])[IP].len <= 65535 for f in result] == [True, True]
    assert NotingPort().send(result) == frames


@pytest.mark.parametrize(("flows", "found"), [(8, 8), (9, 0)])
def test_flows_that_are_followed_at_once_are_bounded(flows: int, found: int) -> None:
    frames = [f for i in range(2) for n in range(flows) for f in stretch(1, first=i, sport=1000 + n)]
    assert len(joined(frames)) == 2 * flows - found


def test_pieces_of_all_super_frames_are_bounded() -> None:
    """256 for a burst; what does not find room is sent as it is."""
    frames = [f for n in range(4) for f in stretch(12, size=1000, sport=1000 + n)]
    result = joined(frames, head=130, piece=100)
    assert sum(payload_sizes(result)) == 48_000
    assert len(result) < 48
    assert NotingPort().send(result) == frames


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_joining_loses_nothing_and_keeps_the_order_of_each_flow(data: st.DataObject) -> None:
    """Whatever is joined is what was sent, once it is cut again, flow by flow."""
    flows = [
        stretch(
            data.draw(st.integers(1, 9)),
            size=data.draw(st.sampled_from([1, 2, 999, MSS])),
            sport=2000 + flow,
            v6=data.draw(st.booleans()),
            flags=data.draw(st.sampled_from(["A", "A", "PA", "FA"])),
        )
        for flow in range(data.draw(st.integers(1, 5)))
    ]
    order = random.Random(data.draw(st.integers(0, 99)))
    for flow in flows:
        if order.random() < 0.3:
            order.shuffle(flow)
    assert keeps_flows(NotingPort().send(joined(interleaved(flows, order))), flows)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 65_000),
    mss=st.integers(536, MSS),
    v6=st.booleans(),
    flags=st.sampled_from(["A", "PA"]),
    split=st.sampled_from([(0, 0), (256, 8192), (131, 2047)]),
)
def test_cutting_and_joining_give_the_same(
    size: int, mss: int, v6: bool, flags: str, split: tuple[int, int]
) -> None:
    whole = super_tcp(payload(size), mss, v6=v6, flags=flags)
    segments = NotingPort().send([whole], head=split[0], piece=split[1])
    again = []
    for at in range(0, len(segments), 64):
        again += joined(segments[at : at + 64])
    if 1 < len(segments) <= 64:
        assert again == [whole]
    assert NotingPort().send(again) == segments


def test_a_super_frame_that_came_as_one_is_left_alone() -> None:
    frames = [super_tcp(payload(3000)), super_tcp(payload(3000), seq=4000)]
    assert joined(frames) == frames


def test_a_forged_checksum_place_is_not_joined() -> None:
    forged = [
        partial(tcp(payload(100), seq=1000 + 100 * i, ip={"id": 500 + i}), csum_start=0) for i in (0, 1)
    ]
    port = NotingPort(takes=TAKES)
    assert port.send(forged) == []
