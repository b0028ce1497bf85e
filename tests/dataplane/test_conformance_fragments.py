"""Fragments: held until their datagram is whole, translated as one packet, sent on as fragments again."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbox_net.dataplane.verdict import Verdict
from tests.support.frames import ICMP, IP, UDP, Packet, fragments, ipv4, read, udp
from tests.support.nat import E2, EXTERNAL, A, B, Nat

PEER = (E2, 80)
PAYLOAD = bytes(range(256)) * 12
DATAGRAM = udp((A, 4000), PEER, PAYLOAD, fragment=0)
CUTS = [1000, 2000]
MORE = 0x2000


def whole(pieces: list[Packet]) -> Packet:
    """The packet that *pieces*, fragments of one datagram in order, are of; its checksums hold."""
    assert len({(piece.src, piece.dst, piece.proto, piece.id) for piece in pieces}) == 1
    body = b"".join(bytes(piece.payload) for piece in pieces)
    assert [piece.frag * 8 for piece in pieces] == [
        0,
        *itertools.accumulate(len(bytes(piece.payload)) for piece in pieces[:-1]),
    ]
    first = pieces[0]
    return read(bytes(IP(src=first.src, dst=first.dst, proto=first.proto, ttl=first.ttl) / body))


def give(nat: Nat, pieces: list[bytearray]) -> list[Verdict]:
    return [nat.outbound(bytearray(piece)) for piece in pieces]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_n14_f6_fragments_in_any_order_get_one_translation(order):
    nat = Nat()
    unfragmented = nat.external(udp((A, 4000), PEER))
    pieces = fragments(DATAGRAM, CUTS)
    verdicts = give(nat, [pieces[i] for i in order])
    assert verdicts[:2] == [Verdict.VERDICT_HELD] * 2
    assert verdicts[2] in (Verdict.VERDICT_FRAGMENTED, Verdict.VERDICT_HELD)
    out = whole(nat.answers_outside())
    assert (out.src, out[UDP].sport) == unfragmented
    assert bytes(out[UDP].payload) == PAYLOAD


def test_n14_fragments_from_outside_reach_the_guest():
    nat = Nat()
    external = nat.external(udp((A, 4000), PEER))
    for piece in fragments(udp(PEER, external, PAYLOAD, fragment=0), CUTS):
        nat.inbound(piece)
    got = whole(nat.answers())
    assert (got.dst, got[UDP].dport) == (A, 4000)
    assert bytes(got[UDP].payload) == PAYLOAD


def test_n14_datagrams_that_never_complete_cost_bounded_memory_and_harm_nobody():
    nat = Nat()
    nat.sent(udp((B, 4000), PEER))
    first = fragments(DATAGRAM, CUTS)[0]
    first[4:6], first[10:12] = b"\0\0", (int.from_bytes(first[10:12], "big") + 7).to_bytes(2, "big")
    for i in range(100_000):
        piece = bytearray(first)
        # RFC 1624: what one field gains, the sum of the header loses.
        piece[4:6] = (i % 10_000).to_bytes(2, "big")
        piece[10:12] = (int.from_bytes(first[10:12], "big") - i % 10_000).to_bytes(2, "big")
        nat.outbound(piece)
        if i % 1000 == 0:
            assert nat.outbound(udp((B, 4000), PEER)) == Verdict.VERDICT_FORWARD
    assert nat.engine.stats()["datagrams_evicted"] > 90_000


@pytest.mark.parametrize("start, end", [(992, 2000), (1000, 2008), (0, 1000), (1496, 1504)])
def test_f1_an_overlap_drops_the_whole_datagram(start, end):
    nat = Nat()
    pieces = fragments(DATAGRAM, CUTS)
    body = bytearray(DATAGRAM[20:])
    body[start:end] = b"\xee" * (end - start)
    evil = ipv4(A, E2, 17, bytes(body[start:end]), identification=7, fragment=start // 8 | MORE)
    nat.outbound(bytearray(pieces[0]))
    nat.outbound(bytearray(pieces[1]))
    assert nat.outbound(evil) >= Verdict.DROP_FIRST
    nat.outbound(bytearray(pieces[2]))
    assert nat.emitted() == []


def test_f2_an_exact_duplicate_changes_nothing():
    nat = Nat()
    pieces = fragments(DATAGRAM, CUTS)
    assert give(nat, [pieces[0]]) == [Verdict.VERDICT_HELD]
    nat.outbound(bytearray(pieces[0]))
    give(nat, pieces[1:])
    assert bytes(whole(nat.answers_outside())[UDP].payload) == PAYLOAD


@pytest.mark.parametrize("offset, size", [(8189, 24), (8191, 8), (8000, 1536)])
def test_f3_fragments_that_reach_beyond_65535_bytes_are_dropped(offset, size):
    nat = Nat()
    piece = ipv4(A, E2, 17, bytes(size), identification=7, fragment=offset)
    assert nat.outbound(piece) == Verdict.DROP_BAD_FRAGMENT


@pytest.mark.parametrize("protocol", [6, 17, 1])
def test_f4_a_first_fragment_without_the_l4_header_is_dropped(protocol):
    nat = Nat()
    size = {6: 16, 17: 0, 1: 0}[protocol]
    piece = ipv4(A, E2, protocol, bytes(size), identification=7, fragment=MORE)
    assert nat.outbound(piece) == Verdict.DROP_BAD_FRAGMENT


@pytest.mark.parametrize("fragment", [MORE, 10 | MORE, 10])
def test_f5_a_fragment_of_nothing_is_dropped(fragment):
    assert (
        Nat().outbound(ipv4(A, E2, 17, b"", identification=7, fragment=fragment)) == Verdict.DROP_BAD_FRAGMENT
    )


def test_f7_datagrams_of_guests_and_protocols_are_not_mixed():
    nat = Nat()
    of_a = fragments(DATAGRAM, CUTS)
    of_b = fragments(udp((B, 4000), PEER, PAYLOAD[::-1], fragment=0), CUTS)
    as_tcp = ipv4(A, E2, 6, bytes(1000), identification=7, fragment=1000 // 8 | MORE)
    give(nat, [of_a[0], of_b[0], as_tcp, of_b[1], of_a[1], of_a[2], of_b[2]])
    pieces = nat.answers_outside()
    payloads = [
        bytes(whole(list(group))[UDP].payload)
        for _, group in itertools.groupby(pieces, lambda piece: piece.id)
    ]
    assert payloads == [PAYLOAD, PAYLOAD[::-1]]


@pytest.mark.parametrize("size", [9, 15, 1001])
def test_f8_a_fragment_that_is_not_the_last_is_a_multiple_of_eight(size):
    piece = ipv4(A, E2, 17, bytes(size), identification=7, fragment=MORE | 10)
    assert Nat().outbound(piece) == Verdict.DROP_BAD_FRAGMENT


@pytest.mark.parametrize("held, answers", [([0, 1], 1), ([1, 2], 0)], ids=["first-seen", "first-not-seen"])
def test_f9_what_is_not_whole_in_thirty_seconds_is_given_up(held, answers):
    nat = Nat()
    pieces = fragments(DATAGRAM, CUTS)
    give(nat, [pieces[i] for i in held])
    nat.wait(29)
    assert nat.answers() == []
    nat.wait(2)
    found = nat.answers()
    assert [(one.dst, one[ICMP].type, one[ICMP].code) for one in found] == [(A, 11, 1)] * answers
    missing = ({0, 1, 2} - set(held)).pop()
    assert nat.outbound(bytearray(pieces[missing])) == Verdict.VERDICT_HELD
    assert nat.emitted() == []


def test_f9_a_datagram_may_take_twenty_nine_seconds():
    nat = Nat()
    pieces = fragments(DATAGRAM, CUTS)
    give(nat, pieces[:2])
    nat.wait(29)
    give(nat, pieces[2:])
    assert bytes(whole(nat.answers_outside())[UDP].payload) == PAYLOAD


def test_f10_n24_a_guest_holds_at_most_64_datagrams_and_the_oldest_makes_way():
    nat = Nat()
    halves = {
        (guest, i): fragments(udp((guest, 4000), PEER, bytes(64), fragment=0), [32], identification=i)
        for guest, count in ((A, 65), (B, 1))
        for i in range(count)
    }
    assert {nat.outbound(bytearray(first)) for first, _ in halves.values()} == {Verdict.VERDICT_HELD}
    assert nat.engine.stats()["datagrams_evicted"] == 1
    verdicts = {key: nat.outbound(bytearray(second)) for key, (_, second) in halves.items() if key != (A, 0)}
    assert set(verdicts.values()) == {Verdict.VERDICT_FRAGMENTED}
    assert nat.outbound(halves[A, 0][1]) == Verdict.VERDICT_HELD, "its first half is gone"


def test_f10_n24_a_guest_holds_at_most_a_mebibyte():
    nat = Nat()
    for identification in range(64):
        nat.outbound(ipv4(A, E2, 17, bytes(32000), identification=identification, fragment=MORE))
    kept = 64 - nat.engine.stats()["datagrams_evicted"]
    assert 512 * 1024 <= kept * 32000 <= 1024 * 1024


@given(
    st.integers(1, 6000),
    st.lists(st.integers(1, 700), max_size=6, unique=True),
    st.randoms(use_true_random=False),
)
def test_any_datagram_survives_any_cuts_and_order(size, cuts, random):
    nat = Nat()
    payload = random.randbytes(size)
    datagram = udp((A, 4000), PEER, payload, fragment=0)
    at = sorted(cut * 8 for cut in cuts if cut * 8 < size + 8)
    if not at:
        return
    pieces = fragments(datagram, at)
    random.shuffle(pieces)
    give(nat, pieces)
    out = whole(nat.answers_outside())
    assert out.src == EXTERNAL
    assert bytes(out[UDP].payload) == payload
