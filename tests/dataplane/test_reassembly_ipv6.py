"""How IPv6 fragments become a packet again, and how it is cut again."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_fragments import LIMITS, Stages
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.packets import NEEDS_CSUM, header

GUEST, REMOTE = "fd00:db8:1::2", "2001:db8::7"
HELD, WHOLE, BAD = Verdict.VERDICT_HELD, Verdict.VERDICT_FORWARD, Verdict.DROP_BAD_FRAGMENT
OVERLAP = Verdict.DROP_FRAGMENT_OVERLAP
CONTENT = bytes(range(251)) * 300
SECOND_NS = 10**9
TIMEOUT_NS = 60 * SECOND_NS
ICMPV6, UDP_NUMBER, TCP_NUMBER, EXPERIMENT, NOTHING = 58, 17, 6, 253, 59


def head(**fields: object) -> Packet:
    return IPv6(**{"src": GUEST, "dst": REMOTE, **fields})


def part(
    offset: int, payload: bytes, *, more: bool, id: int = 7, nh: int = EXPERIMENT, ahead: Packet | None = None,
    **fields: object,
) -> bytes:  # fmt: skip
    """A fragment that has *payload* at *offset*, behind the headers *ahead*."""
    extension = IPv6ExtHdrFragment(nh=nh, offset=offset // 8, m=int(more), id=id)
    start = head(**fields)
    return bytes((start / ahead if ahead else start) / extension / Raw(payload))


def cut(size: int, *, l4: Packet | None = None, at: int = 1440, **fields: object) -> list[bytes]:
    """The fragments of a packet with *size* bytes behind its L4 header."""
    built = head() / (l4 or UDP(sport=1000, dport=2000)) / Raw(CONTENT[:size])
    whole = bytes(built)[40:]
    return [
        part(i, whole[i : i + at], more=i + at < len(whole), nh=bytes(built)[6], **fields)  # type: ignore[arg-type]
        for i in range(0, len(whole), at)
    ]


def take(s: Stages, frames: list[bytes], now_ns: int = 0) -> list[int]:
    return [s.take(frame, Direction.OUTBOUND, now_ns)[0] for frame in frames]


def joined(frames: list[bytes]) -> bytes:
    """What becomes of the last of *frames*, all of which are taken."""
    s = Stages()
    whole = [s.take(frame)[1] for frame in frames][-1]
    assert whole is not None
    assert s.counts()["datagrams"] == s.counts()["blocks"] == 0
    return whole


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("l4", [UDP(), TCP(), ICMPv6EchoRequest()], ids=["udp", "tcp", "echo"])
def test_f6_fragments_in_any_order_become_the_packet(order: tuple[int, ...], l4: Packet) -> None:
    parts = cut(4000, l4=l4)
    assert joined([parts[i] for i in order]) == bytes(head() / l4 / Raw(CONTENT[:4000]))


def test_f11_a_packet_in_one_fragment_is_none_of_several() -> None:
    s = Stages()
    assert take(s, [part(8, bytes(16), more=True)]) == [HELD]
    verdict, whole = s.take(part(0, CONTENT[:800], more=False))
    assert verdict == WHOLE
    assert whole == bytes(head(nh=EXPERIMENT) / Raw(CONTENT[:800]))
    assert s.counts()["datagrams"] == 1


@pytest.mark.parametrize("size", [8, 100, 65527])
def test_f11_a_packet_in_one_fragment_loses_only_the_fragment_header(size: int) -> None:
    assert joined([part(0, CONTENT[:size], more=False)]) == bytes(head(nh=EXPERIMENT) / Raw(CONTENT[:size]))


AHEAD = [
    pytest.param(IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 4)]), id="hop-by-hop"),
    pytest.param(IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 12)]), id="destination"),
    pytest.param(IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(), id="both"),
]


@pytest.mark.parametrize("ahead", AHEAD)
def test_f12_headers_ahead_of_the_fragment_header_stay_there(ahead: Packet) -> None:
    parts = [
        part(0, CONTENT[:800], more=True, ahead=ahead.copy()),
        part(800, CONTENT[800:900], more=False, ahead=ahead.copy()),
    ]
    expected = ahead.copy()
    expected.lastlayer().nh = EXPERIMENT
    assert joined(parts) == bytes(head() / expected / Raw(CONTENT[:900]))


def chain(count: int) -> Packet:
    packet = IPv6ExtHdrDestOpt()
    for _ in range(count - 1):
        packet = packet / IPv6ExtHdrDestOpt()
    return packet


@pytest.mark.parametrize(("ahead", "verdict"), [(7, WHOLE), (8, BAD)])
def test_f12_eight_extension_headers_are_the_most(ahead: int, verdict: Verdict) -> None:
    assert take(Stages(), [part(0, bytes(800), more=False, ahead=chain(ahead))]) == [verdict]


@pytest.mark.parametrize(("size", "verdict"), [(80, WHOLE), (88, BAD)])
def test_f12_128_bytes_of_headers_are_the_most_ahead_of_a_part(size: int, verdict: Verdict) -> None:
    options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(size - 4))])
    assert len(bytes(options)) == size
    assert take(Stages(), [part(0, bytes(800), more=False, ahead=options)]) == [verdict]


@pytest.mark.parametrize(
    ("payload", "nh"),
    [
        pytest.param(bytes(16), TCP_NUMBER, id="tcp-16"),
        pytest.param(b"\0" * 12 + b"\xf0" + bytes(43), TCP_NUMBER, id="tcp-options-outside"),
        pytest.param(bytes([UDP_NUMBER, 0, *bytes(6)]), 60, id="udp-behind-options"),
        pytest.param(bytes([ICMPV6, 1, *bytes(6)]), 60, id="options-outside"),
        pytest.param(bytes(40), 44, id="another-fragment-header"),
    ],
)
def test_f4_f12_the_first_fragment_has_all_headers(payload: bytes, nh: int) -> None:
    assert take(Stages(), [part(0, payload, more=True, nh=nh)]) == [BAD]


def test_f4_no_later_fragment_has_a_part_of_the_tcp_header() -> None:
    assert take(Stages(), [part(8, bytes(64), more=True, nh=TCP_NUMBER)]) == [BAD]


def test_f1_an_overlap_drops_the_packet_and_what_is_still_to_come() -> None:
    s = Stages()
    assert take(s, [part(16, bytes(16), more=True), part(24, bytes(16), more=True)]) == [HELD, OVERLAP]
    assert take(s, [part(0, bytes(16), more=True), part(32, bytes(8), more=False)]) == [OVERLAP] * 2


def test_f2_a_copy_of_a_fragment_does_no_harm() -> None:
    s = Stages()
    first, second = cut(2000)
    assert take(s, [first, first, second]) == [HELD, Verdict.DROP_FRAGMENT_DUPLICATE, WHOLE]


@pytest.mark.parametrize(
    ("offset", "size", "more", "verdict"),
    [
        pytest.param(65520, 7, False, HELD, id="longest"),
        pytest.param(65520, 16, False, BAD, id="f3-longer"),
        pytest.param(80, 0, False, BAD, id="f5-empty"),
        pytest.param(80, 7, True, BAD, id="f8-out-of-step"),
        pytest.param(80, 7, False, HELD, id="last-out-of-step"),
    ],
)
def test_a_part_is_within_a_packet_and_in_step(offset: int, size: int, more: bool, verdict: Verdict) -> None:
    assert take(Stages(), [part(offset, bytes(size), more=more)]) == [verdict]


@pytest.mark.parametrize(
    "other", [{"src": "fd00:db8:1::3"}, {"dst": "2001:db8::8"}, {"id": 8}], ids=["guest", "destination", "id"]
)
def test_f7_fragments_of_different_packets_are_not_mixed(other: dict[str, object]) -> None:
    s = Stages()
    frames = [part(0, bytes(800), more=True), part(800, bytes(8), more=False, **other)]  # type: ignore[arg-type]
    assert take(s, frames) == [HELD, HELD]


def test_only_the_first_fragment_says_what_the_packet_is() -> None:
    frames = [part(800, bytes(8), more=False, nh=NOTHING), part(0, bytes(800), more=True)]
    assert IPv6(joined(frames)).nh == EXPERIMENT


def test_a_mark_of_congestion_on_one_fragment_is_on_the_packet() -> None:
    frames = [part(0, bytes(800), more=True, tc=2), part(800, bytes(8), more=False, tc=3)]
    assert IPv6(joined(frames)).tc == 3


def test_f9_a_packet_is_waited_for_60_s() -> None:
    s = Stages()
    first, second = cut(2000)
    take(s, [first])
    assert s.expire(TIMEOUT_NS) == 0
    assert take(s, [second], TIMEOUT_NS) == [WHOLE]
    take(s, [first])
    assert s.expire(TIMEOUT_NS + 1) == 1


def test_ipv4_is_not_kept_waiting_by_ipv6() -> None:
    s = Stages()
    take(s, [cut(2000)[0]])
    s.take(bytes.fromhex("4500001c00012001401100000a0000020a000003") + bytes(8))
    assert s.expire(30 * SECOND_NS + 1) == 1


def test_f10_the_65th_packet_of_one_sender_costs_it_the_oldest() -> None:
    s = Stages()
    take(s, [part(0, bytes(800), more=True, id=n) for n in range(65)])
    assert (s.counts()["datagrams"], s.counts()["evicted"]) == (LIMITS["datagrams_owner"], 1)
    take(s, [part(0, bytes(800), more=True, src="fd00:db8:1::3")])
    assert (s.counts()["datagrams"], s.counts()["evicted"]) == (65, 1)


def emitted(s: Stages) -> list[bytes]:
    return [frame for _, _, frame in s.emitted()]


@given(size=st.integers(0, 20000), mtu=st.integers(1280, 3000), hop_by_hop=st.booleans())
def test_what_is_cut_fits_and_is_joined_again(size: int, mtu: int, hop_by_hop: bool) -> None:
    start = head(hlim=9, fl=77) / IPv6ExtHdrHopByHop() if hop_by_hop else head(hlim=9, fl=77)
    whole = bytes(start / UDP(sport=1, dport=2) / Raw(CONTENT[:size]))
    s = Stages()
    assert s.cut(whole, mtu) == Verdict.VERDICT_FRAGMENTED
    frames = emitted(s)
    assert all(len(frame) <= mtu for frame in frames)
    assert all(IPv6(frame).plen == len(frame) - 40 for frame in frames)
    if len(whole) <= mtu:
        assert frames == [whole]
    else:
        assert len({IPv6(frame)[IPv6ExtHdrFragment].id for frame in frames}) == 1
        assert joined(frames) == whole


def test_the_least_mtu_of_ipv6_holds() -> None:
    s = Stages()
    s.cut(bytes(head() / UDP() / Raw(bytes(3000))), 600)
    assert max(len(frame) for frame in emitted(s)) == 1280


def test_a_packet_that_leaves_something_to_offloads_is_not_cut() -> None:
    virtio = header(flags=NEEDS_CSUM, csum_start=40, csum_offset=6)
    whole = bytes(head() / UDP() / Raw(bytes(3000)))
    assert Stages().cut(whole, 1500, virtio=virtio) == Verdict.DROP_TOO_BIG


@given(st.lists(st.tuples(st.sampled_from([0, 44, 60, 6, 17]), st.binary(max_size=200)), max_size=12))
def test_any_packet_with_a_fragment_header_is_survived(rests: list[tuple[int, bytes]]) -> None:
    s = Stages()
    for next_header, rest in rests:
        s.take(bytes(head(nh=next_header) / Raw(rest)))
    s.expire(TIMEOUT_NS + 1)
    assert s.counts()["datagrams"] == s.counts()["blocks"] == 0


def test_the_largest_packet_that_brought_a_part_is_known() -> None:
    s = Stages()
    frames = cut(4000, at=1440)
    take(s, frames[::-1])
    assert s.counts()["largest"] == len(frames[0])
    s.take(part(0, bytes(100), more=False))
    assert s.counts()["largest"] == 148
