"""Which datagrams become a super-frame, and that cutting it gives them back."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcbox_net.dataplane._testing_offload import CSUM, TSO4, TSO6, USO, NotingPort
from tests.support.offload import (
    interleaved,
    keeps_flows,
    payload,
    payload_sizes,
    plain,
    super_udp,
    tcp,
    udp,
)

TAKES = CSUM | USO


def datagrams(count: int, *, size: int = 100, v6: bool = False, **fields: Any) -> list[bytes]:
    """Of one flow, told apart by what they say."""
    whole = payload(count * size)
    return [
        plain(udp(whole[i * size : (i + 1) * size], v6=v6, ip={} if v6 else {"id": 500 + i}, **fields))
        for i in range(count)
    ]


def joined(frames: list[bytes], takes: int = TAKES, **split: int) -> list[bytes]:
    return NotingPort(takes=takes).send(frames, **split)


@pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("head", "piece"), [(0, 0), (64, 300)])
def test_datagrams_of_one_size_become_what_one_send_could_have_sent(v6: bool, head: int, piece: int) -> None:
    whole = super_udp(payload(12_100), 1200, v6=v6)
    cut = NotingPort().send([whole])
    assert payload_sizes(cut) == [1200] * 10 + [100]
    assert joined(cut, head=head, piece=piece) == [whole]


def test_a_port_that_takes_no_udp_super_frames_gets_datagrams_with_their_checksums() -> None:
    frames = datagrams(5)
    assert joined(frames, CSUM | TSO4 | TSO6) == frames
    assert joined(joined(frames), 0) == frames


def test_borders_are_kept() -> None:
    """A shorter datagram is the last of its super-frame, and a longer one begins another."""
    lengths = [100, 100, 60, 100, 100, 101]
    frames = [plain(udp(payload(size), ip={"id": 500 + i})) for i, size in enumerate(lengths)]
    assert payload_sizes(joined(frames)) == [260, 200, 101]
    assert payload_sizes(NotingPort().send(joined(frames))) == lengths


UNLIKE: dict[str, dict[str, Any]] = {
    "no-checksum": {"chksum": 0},
    "wrong-checksum": {"chksum": 0x1234},
    "length": {"len": 50},
    "ttl": {"ip": {"ttl": 63}},
    "tos": {"ip": {"tos": 1}},
    "df": {"ip": {"flags": 0}},
    "fragment": {"ip": {"flags": "MF"}},
    "source-port": {"sport": 1},
}


@pytest.mark.parametrize("unlike", UNLIKE.values(), ids=UNLIKE)
@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
def test_what_differs_is_not_joined(unlike: dict[str, Any], place: int) -> None:
    frames = datagrams(2)
    fields = {"ip": {"id": 500 + place, **unlike.get("ip", {})}}
    frames[place] = plain(udp(payload(100), **{**unlike, **fields}))
    assert joined(frames) == frames


def test_padding_is_no_payload() -> None:
    frames = [frame + b"\0\0" for frame in datagrams(2, size=1)]
    assert joined(frames) == frames


def test_tcp_and_udp_between_the_same_ports_are_two_flows() -> None:
    segments = [plain(tcp(payload(100), seq=1000 + 100 * i, dport=443, ip={"id": 9 + i})) for i in range(2)]
    frames = [f for pair in zip(datagrams(2), segments, strict=True) for f in pair]
    assert payload_sizes(joined(frames, TAKES | TSO4)) == [200, 200]
    assert payload_sizes(joined(frames)) == [200, 100, 100]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_joining_loses_nothing_and_keeps_the_order_of_each_flow(data: st.DataObject) -> None:
    flows = [
        datagrams(
            data.draw(st.integers(1, 9)),
            size=data.draw(st.sampled_from([1, 2, 999, 1400])),
            sport=2000 + flow,
            v6=data.draw(st.booleans()),
        )
        for flow in range(data.draw(st.integers(1, 5)))
    ]
    frames = interleaved(flows, random.Random(data.draw(st.integers(0, 99))))
    assert keeps_flows(NotingPort().send(joined(frames)), flows)
