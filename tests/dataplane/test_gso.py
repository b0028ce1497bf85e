"""Segments of super-frames, with scapy as the judge of lengths and checksums."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether

from arcbox_net.dataplane._testing_offload import CSUM, PARTS, SEGMENTS, USO, NotingPort
from tests.support.offload import (
    GSO_ECN,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    MSS,
    VNET_BYTES,
    data_of,
    partial,
    payload,
    plain,
    read_all,
    super_tcp,
    tcp,
    udp,
)

VERSIONS = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])
SPLITS = pytest.mark.parametrize(("head", "piece"), [(0, 0), (256, 4096), (130, 1021)], ids=str)


@VERSIONS
@SPLITS
@pytest.mark.parametrize("size", [1, MSS, MSS + 1, 3 * MSS, 60_001])
def test_tcp_is_cut_at_the_segment_size(v6: bool, head: int, piece: int, size: int) -> None:
    segments = read_all(NotingPort().send([super_tcp(payload(size), v6=v6)], head=head, piece=piece))
    assert [len(data_of(s)) for s in segments[:-1]] == [MSS] * (len(segments) - 1)
    assert b"".join(map(data_of, segments)) == payload(size)
    assert [s[TCP].seq for s in segments] == [1000 + MSS * i for i in range(len(segments))]
    assert {(s[TCP].ack, s[TCP].window, str(s[TCP].options)) for s in segments} == {
        (77, 8192, str(segments[0][TCP].options))
    }


def test_ipv4_identifications_count_up_and_wrap() -> None:
    segments = read_all(NotingPort().send([super_tcp(payload(4000), 1000, ip={"id": 65534})]))
    assert [s[IP].id for s in segments] == [65534, 65535, 0, 1]


def test_a_sequence_number_wraps() -> None:
    segments = read_all(NotingPort().send([super_tcp(payload(300), 100, seq=2**32 - 150)]))
    assert [s[TCP].seq for s in segments] == [2**32 - 150, 2**32 - 50, 50]


@pytest.mark.parametrize(
    ("whole", "each"),
    [
        ("A", ["A", "A", "A"]),
        ("PA", ["A", "A", "PA"]),
        ("FPA", ["A", "A", "FPA"]),
        ("AC", ["AC", "A", "A"]),
        ("AE", ["AE", "AE", "AE"]),
        ("PAEC", ["AEC", "AE", "PAE"]),
    ],
)
@pytest.mark.parametrize("ecn", [0, GSO_ECN])
def test_flags_are_on_the_segments_that_they_belong_to(whole: str, each: list[str], ecn: int) -> None:
    frame = partial(tcp(payload(300), flags=whole), GSO_TCPV4 | ecn, 100)
    assert [s[TCP].flags for s in read_all(NotingPort().send([frame]))] == each


def test_no_payload_is_one_segment() -> None:
    [segment] = read_all(NotingPort().send([super_tcp(b"", flags="FA")]))
    assert segment[TCP].flags == "FA"


@VERSIONS
def test_datagrams_have_lengths_of_their_own(v6: bool) -> None:
    frame = partial(udp(payload(2500), v6=v6), GSO_UDP, 1200)
    datagrams = read_all(NotingPort().send([frame]))
    assert [d[UDP].len for d in datagrams] == [1208, 1208, 108]
    assert b"".join(map(data_of, datagrams)) == payload(2500)


def test_a_port_that_takes_uso_gets_the_whole() -> None:
    frame = partial(udp(payload(2500)), GSO_UDP, 1200)
    assert NotingPort(takes=CSUM | USO).send([frame]) == [frame]


def test_options_and_extension_headers_are_in_every_segment() -> None:
    packet = tcp(payload(300), v6=True)
    packet[IPv6].payload = IPv6ExtHdrDestOpt() / packet[IPv6].payload
    frame = partial(Ether(bytes(packet)), GSO_TCPV6, 100)
    segments = read_all(NotingPort().send([frame]))
    assert [data_of(s) for s in segments] == [payload(300)[i : i + 100] for i in (0, 100, 200)]
    assert all(IPv6ExtHdrDestOpt in s for s in segments)


@VERSIONS
def test_a_port_that_takes_checksums_gets_segments_without(v6: bool) -> None:
    frame = super_tcp(payload(4000), v6=v6)
    expected = [
        partial(tcp(payload(4000)[i : i + MSS], v6=v6, seq=1000 + i, ip={} if v6 else {"id": 500 + i // MSS}))
        for i in range(0, 4000, MSS)
    ]
    sent = NotingPort(takes=CSUM).send([frame])
    assert [s[VNET_BYTES:] for s in sent] == [e[VNET_BYTES:] for e in expected]
    assert {s[0] for s in sent} == {1}


@pytest.mark.parametrize(("size", "passes"), [(SEGMENTS * 10, True), (SEGMENTS * 10 + 1, False)])
def test_segments_of_a_frame_are_bounded(size: int, passes: bool) -> None:
    port = NotingPort()
    assert len(port.send([super_tcp(payload(size), 10)])) == (SEGMENTS if passes else 0)
    assert bool(port.drops) != passes


def test_pieces_of_a_segment_are_bounded() -> None:
    """A segment may be of as many pieces as a frame."""
    port = NotingPort(frame_max=9000)
    frame = super_tcp(payload(130 - 66 + PARTS * 20), 8000)
    assert port.send([frame], head=130, piece=20) == []
    assert len(port.send([frame], head=66, piece=21)) == 1


def test_order_is_kept_around_a_frame_that_is_cut() -> None:
    before, after = plain(tcp(b"before", sport=1)), plain(tcp(b"after", sport=2))
    frames = NotingPort().send([before, super_tcp(payload(300), 100), after])
    assert frames[0] == before
    assert frames[-1] == after
    assert len(frames) == 5
