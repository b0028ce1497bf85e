"""How fragments become a datagram again."""

from __future__ import annotations

import struct
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_fragments import LIMITS, Stages
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.packets import NEEDS_CSUM, header

GUEST, REMOTE = "192.168.64.9", "198.51.100.7"
GATEWAY = "192.168.64.1"
SECOND_NS = 10**9
TIMEOUT_NS = 30 * SECOND_NS
HELD, WHOLE = Verdict.VERDICT_HELD, Verdict.VERDICT_FORWARD
OVERLAP, BAD = Verdict.DROP_FRAGMENT_OVERLAP, Verdict.DROP_BAD_FRAGMENT
CONTENT = bytes(range(251)) * 262


def stages(**fields: int) -> Stages:
    return Stages(gateway=bytes([192, 168, 64, 1]), **fields)


def part(offset: int, payload: bytes, *, more: bool, id: int = 7, proto: int = 17, **fields: object) -> bytes:
    """A fragment that has *payload* at *offset*."""
    ip = {"src": GUEST, "dst": REMOTE, "id": id, "proto": proto, **fields}
    return bytes(IP(**ip, flags="MF" if more else 0, frag=offset // 8) / Raw(payload))


def cut(size: int, *, at: int = 1480, l4: Packet | None = None, **fields: object) -> list[bytes]:
    """The fragments of a datagram with *size* bytes behind its UDP header."""
    l4 = l4 or UDP(sport=1000, dport=2000)
    whole = bytes(IP(src=GUEST, dst=REMOTE) / l4 / Raw(CONTENT[:size]))[20:]
    proto = {UDP: 17, TCP: 6, ICMP: 1}[type(l4)]
    fields = {"proto": proto, **fields}
    return [
        part(i, whole[i : i + at], more=i + at < len(whole), **fields)  # type: ignore[arg-type]
        for i in range(0, len(whole), at)
    ]


def payload_of(parts: list[bytes]) -> bytes:
    return b"".join(frame[IP(frame).ihl * 4 :] for frame in parts)


def take(s: Stages, frames: list[bytes], direction: int = Direction.OUTBOUND, now_ns: int = 0) -> list[int]:
    return [s.take(frame, direction, now_ns)[0] for frame in frames]


def is_datagram_of(whole: bytes | None, parts: list[bytes]) -> bool:
    """Whether it has the payload of *parts* and a header that is right."""
    assert whole is not None
    again = IP(whole)
    del again.chksum, again.len
    assert bytes(again) == whole
    return (again.flags, again.frag) == (0, 0) and whole[again.ihl * 4 :] == payload_of(parts)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("l4", [UDP(), TCP(), ICMP()], ids=["udp", "tcp", "icmp"])
def test_n14_f6_fragments_in_any_order_become_the_datagram(order: tuple[int, ...], l4: Packet) -> None:
    s = stages()
    parts = cut(4000, l4=l4)
    results = [s.take(parts[i]) for i in order]
    assert [verdict for verdict, _ in results] == [HELD, HELD, WHOLE]
    assert is_datagram_of(results[-1][1], parts)
    assert s.counts()["datagrams"] == s.counts()["blocks"] == 0


@given(st.data())
def test_fragments_of_any_sizes_in_any_order_become_the_datagram(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 20000))
    whole = CONTENT[:size]
    cuts = sorted(data.draw(st.sets(st.integers(1, (size + 7) // 8), max_size=20)))
    ends = [end * 8 for end in cuts if end * 8 < size] + [size]
    parts = [part(a, whole[a:b], more=b < size, proto=99) for a, b in zip([0, *ends], ends, strict=False)]
    s = stages()
    *before, last = [s.take(frame) for frame in data.draw(st.permutations(parts))]
    assert before == [(HELD, None)] * len(before)
    assert last[0] == WHOLE
    assert is_datagram_of(last[1], parts)
    assert s.counts()["blocks"] == 0


@given(st.data())
def test_whatever_comes_a_datagram_is_only_made_of_bytes_that_were_in_their_places(
    data: st.DataObject,
) -> None:
    """Pieces of two contents: what is made of them is what one of each place said, and each byte came once."""
    s = stages()
    contents = [bytes([fill]) * 64 for fill in (1, 2)]
    piece = st.tuples(st.integers(0, 7), st.integers(1, 8), st.sampled_from(contents), st.booleans())
    for at, length, content, more in data.draw(st.lists(piece, max_size=30)):
        end = min(at + length, 8)
        verdict, whole = s.take(part(at * 8, content[at * 8 : end * 8], more=more, proto=99))
        if verdict == WHOLE:
            assert whole is not None
            assert len(whole) % 8 == 4 and set(whole[20:]) <= {1, 2}
    assert s.counts()["datagrams"] <= 1


def test_the_header_is_that_of_the_first_fragment() -> None:
    s = stages()
    first, *others = cut(3000)
    options = IP(first)
    del options.chksum, options.len, options.ihl
    options.options, options.ttl = [IPOption_Router_Alert()], 9
    _, whole = [s.take(frame) for frame in [*others, bytes(options)]][-1]
    assert is_datagram_of(whole, [first, *others])
    assert (IP(whole).ihl, IP(whole).ttl) == (6, 9)


def test_the_ethernet_header_is_that_of_the_last_fragment_to_come() -> None:
    s = stages(l3=14)
    links = [bytes(Ether(src=f"02:00:00:00:00:0{n}", dst="02:00:00:00:00:01", type=0x800)) for n in (2, 3)]
    parts = cut(2000)
    s.take(links[0] + parts[0])
    _, whole = s.take(links[1] + parts[1])
    assert whole is not None
    assert whole[:14] == links[1]
    assert is_datagram_of(whole[14:], parts)


@pytest.mark.parametrize("flavour", ["MF", "DF+MF"])
def test_bytes_behind_the_packet_are_not_taken(flavour: str) -> None:
    s = stages()
    parts = cut(1480)
    assert take(s, [parts[0] + bytes(6)]) == [HELD]
    _, whole = s.take(parts[1] + b"trailer")
    assert is_datagram_of(whole, parts)


@pytest.mark.parametrize(
    ("offset", "size", "more"),
    [
        pytest.param(8, 16, True, id="into-the-one-behind"),
        pytest.param(24, 16, True, id="from-the-one-ahead"),
        pytest.param(16, 8, True, id="within"),
        pytest.param(8, 40, True, id="around"),
        pytest.param(16, 16, False, id="copy-that-says-it-is-the-last"),
    ],
)
def test_f1_an_overlap_drops_the_datagram_and_what_is_still_to_come(
    offset: int, size: int, more: bool
) -> None:
    s = stages()
    assert take(s, [part(16, CONTENT[16:32], more=True, proto=99)]) == [HELD]
    assert take(s, [part(offset, CONTENT[offset : offset + size], more=more, proto=99)]) == [OVERLAP]
    assert s.counts()["blocks"] == 0
    rest = [part(0, CONTENT[:16], more=True, proto=99), part(32, b"end", more=False, proto=99)]
    assert take(s, [*rest, part(16, CONTENT[16:32], more=True, proto=99)]) == [OVERLAP] * 3
    assert s.counts()["refused"] == 1


def test_f1_other_bytes_in_the_same_place_are_an_overlap() -> None:
    s = stages()
    assert take(s, [part(16, bytes(16), more=True), part(16, bytes(15) + b"x", more=True)]) == [HELD, OVERLAP]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(part(64, bytes(8), more=True), id="a-part-behind-the-end"),
        pytest.param(part(64, bytes(8), more=False), id="a-second-end"),
        pytest.param(part(8, bytes(8), more=False), id="an-end-ahead-of-a-part"),
    ],
)
def test_f1_fragments_that_disagree_on_the_end_drop_the_datagram(second: bytes) -> None:
    s = stages()
    assert take(s, [part(32, bytes(32), more=False), second]) == [HELD, OVERLAP]


def test_f2_a_copy_of_a_fragment_is_dropped_and_does_no_harm() -> None:
    s = stages()
    parts = cut(4000)
    duplicate = Verdict.DROP_FRAGMENT_DUPLICATE
    assert take(s, [parts[0], parts[0], parts[2], parts[2]]) == [HELD, duplicate, HELD, duplicate]
    assert is_datagram_of(s.take(parts[1])[1], parts)


def test_f3_no_fragment_reaches_beyond_the_longest_packet() -> None:
    s = stages()
    assert take(s, [part(65528, b"x" * 8, more=False)]) == [BAD]
    assert take(s, [part(65512, b"x" * 4, more=False)]) == [BAD]
    assert take(s, [part(65512, b"x" * 3, more=False)]) == [HELD]


def test_f3_the_longest_packet_is_joined_and_one_byte_more_of_header_is_not() -> None:
    whole = CONTENT[:65515]
    parts = [part(a, whole[a : a + 1480], more=a + 1480 < 65515, proto=99) for a in range(0, 65515, 1480)]
    s = stages()
    *_, (verdict, joined) = [s.take(frame) for frame in parts]
    assert verdict == WHOLE
    assert is_datagram_of(joined, parts)
    options = IP(parts[0])
    del options.chksum, options.len, options.ihl
    options.options = [IPOption_Router_Alert()]
    assert take(s, [*parts[1:], bytes(options)])[-1] == BAD
    assert s.counts()["datagrams"] == 0


@pytest.mark.parametrize(
    "tiny",
    [
        pytest.param(part(0, bytes(16), more=True, proto=6), id="tcp-16"),
        pytest.param(part(0, b"\0" * 12 + b"\xf0" + bytes(43), more=True, proto=6), id="tcp-options-outside"),
        pytest.param(part(8, bytes(64), more=True, proto=6), id="tcp-at-8"),
        pytest.param(part(16, bytes(64), more=False, proto=6), id="tcp-at-16"),
    ],
)
def test_f4_the_first_fragment_has_the_whole_l4_header(tiny: bytes) -> None:
    assert take(stages(), [tiny]) == [BAD]


def test_f4_the_least_first_fragment_is_taken() -> None:
    s = stages()
    first = b"\0" * 12 + b"\x50" + bytes(11)
    assert take(s, [part(0, first, more=True, proto=6), part(24, bytes(8), more=False, proto=6)]) == [
        HELD,
        WHOLE,
    ]
    assert take(s, [part(0, bytes(8), more=True), part(8, bytes(8), more=False)]) == [HELD, WHOLE]


@pytest.mark.parametrize("more", [True, False])
def test_f5_a_fragment_without_bytes_is_dropped(more: bool) -> None:
    assert take(stages(), [part(800, b"", more=more)]) == [BAD]


@pytest.mark.parametrize("size", [1, 7, 9, 1479])
def test_f8_only_the_last_fragment_ends_within_eight_bytes(size: int) -> None:
    s = stages()
    assert take(s, [part(800, bytes(size), more=True)]) == [BAD]
    assert take(s, [part(800, bytes(size), more=False)]) == [HELD]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"proto": 99}, id="protocol"),
        pytest.param({"src": "192.168.64.10"}, id="guest"),
        pytest.param({"dst": "198.51.100.8"}, id="destination"),
        pytest.param({"id": 8}, id="identification"),
    ],
)
def test_f7_fragments_of_different_datagrams_are_not_mixed(other: dict[str, object]) -> None:
    s = stages()
    first, second = part(0, bytes(800), more=True), part(800, bytes(800), more=False, **other)  # type: ignore[arg-type]
    assert take(s, [first, second]) == [HELD, HELD]
    assert s.counts()["datagrams"] == 2


def test_f7_both_directions_are_kept_apart() -> None:
    s = stages()
    assert take(s, [part(0, bytes(800), more=True)]) == [HELD]
    assert take(s, [part(800, bytes(8), more=False)], Direction.INBOUND) == [HELD]


@pytest.mark.parametrize(
    ("fields", "congested"), [((2, 3), 3), ((1, 3), 3), ((2, 1), 2), ((0, 0), 0)], ids=str
)
def test_a_mark_of_congestion_on_one_fragment_is_on_the_datagram(
    fields: tuple[int, int], congested: int
) -> None:
    s = stages()
    s.take(part(0, bytes(800), more=True, tos=fields[0]))
    _, whole = s.take(part(800, bytes(8), more=False, tos=fields[1]))
    assert whole is not None
    assert IP(whole).tos == congested


def test_a_mark_of_congestion_among_fragments_that_know_of_none_drops_the_datagram() -> None:
    s = stages()
    frames = [part(0, bytes(800), more=True, tos=3), part(800, bytes(8), more=False, tos=0)]
    assert take(s, frames) == [HELD, BAD]


@pytest.mark.parametrize(
    "virtio",
    [header(flags=NEEDS_CSUM, csum_start=20, csum_offset=6), header(gso_type=1, gso_size=100)],
    ids=["checksum", "gso"],
)
def test_nothing_of_a_fragment_is_left_to_offloads(virtio: bytes) -> None:
    assert stages().take(cut(3000)[0], virtio=virtio)[0] == Verdict.DROP_BAD_OFFLOAD


def test_f9_the_last_fragment_is_in_time_after_30_s_and_not_later() -> None:
    s = stages()
    parts = cut(2000)
    s.take(parts[0])
    assert s.expire(TIMEOUT_NS) == 0
    assert s.take(parts[1], now_ns=TIMEOUT_NS)[0] == WHOLE
    s.take(parts[0])
    assert s.take(parts[1], now_ns=TIMEOUT_NS + 1)[0] == HELD
    assert s.counts()["timeouts"] == 1


def test_f9_the_time_runs_from_the_first_fragment_to_come() -> None:
    s = stages()
    parts = cut(4000)
    for at, frame in enumerate(parts[1:]):
        s.take(frame, now_ns=at * 10 * SECOND_NS)
    assert s.expire(TIMEOUT_NS + 1) == 1
    assert s.counts()["blocks"] == 0


def test_f9_the_guest_is_told_of_a_timeout_when_the_first_fragment_was_there() -> None:
    s = stages()
    parts = cut(4000)
    s.take(parts[0])
    s.take(parts[2])
    assert s.expire(TIMEOUT_NS + 1) == 1
    [(towards, _, frame)] = s.emitted()
    assert towards == Direction.INBOUND
    answer = IP(frame)
    assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == (GATEWAY, GUEST, 11, 1)
    assert frame[28:] == parts[0][:548]


@pytest.mark.parametrize(
    ("frames", "direction"),
    [
        pytest.param(cut(4000)[1:], Direction.OUTBOUND, id="without-the-first"),
        pytest.param(cut(4000)[:1], Direction.INBOUND, id="from-outside"),
        pytest.param([cut(4000)[0], part(8, bytes(8), more=True)], Direction.OUTBOUND, id="refused"),
    ],
)
def test_f9_nobody_is_told_of_a_datagram(frames: list[bytes], direction: int) -> None:
    s = stages()
    take(s, frames, direction)
    assert s.expire(TIMEOUT_NS + 1) == 1
    assert s.emitted() == []


def test_expiry_keeps_to_its_budget() -> None:
    s = stages()
    for n in range(20):
        take(s, [part(800, bytes(8), more=True, id=n)], n % 2)
    assert [s.expire(TIMEOUT_NS + 1, 8) for _ in range(4)] == [8, 8, 4, 0]


@given(st.lists(st.tuples(st.binary(max_size=60), st.integers(0, 0xFFFF), st.integers(0, 3)), max_size=20))
def test_any_fragment_is_survived(rests: list[tuple[bytes, int, int]]) -> None:
    s = stages()
    for at, (rest, field, id) in enumerate(rests):
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(rest), id, field, 64, id * 5, 0, b"abcd", b"efgh"
        )
        s.take(head + rest, at % 2, at * SECOND_NS)
    s.expire(100 * SECOND_NS)
    assert s.counts()["datagrams"] == s.counts()["blocks"] == 0


def test_one_part_more_than_a_datagram_may_have_drops_it() -> None:
    s = stages()
    limit = LIMITS["parts_max"]
    parts = [part(n * 16, bytes(8), more=True, proto=99) for n in range(limit + 1)]
    assert take(s, parts) == [HELD] * limit + [Verdict.DROP_FRAGMENTS_FULL]
    assert s.counts()["blocks"] == 0
