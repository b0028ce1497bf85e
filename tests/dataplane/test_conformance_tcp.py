"""Every way TCP may open and close, through the engine; and the packets that belong to no connection."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane.verdict import Verdict
from tests.support.frames import ACK, FIN, ICMP, PSH, RST, SYN, TCP, ends, tcp, udp
from tests.support.nat import E2, E3, EXTERNAL, A, Nat

PEER = (E2, 80)
GUEST = (A, 4000)


def state(nat: Nat) -> str:
    (flow,) = nat.flows()
    return flow.state


def test_n16_a_three_way_handshake_is_tracked():
    nat = Nat()
    external = nat.external(tcp(GUEST, PEER, SYN, seq=1))
    assert state(nat) == "opening"
    nat.received(tcp(PEER, external, SYN | ACK, seq=100, ack=2))
    assert state(nat) == "opening"
    nat.sent(tcp(GUEST, PEER, ACK, seq=2, ack=101))
    assert state(nat) == "established"


def test_n16_a_simultaneous_open_is_tracked():
    nat = Nat()
    external = nat.external(tcp(GUEST, PEER, SYN, seq=1))
    nat.received(tcp(PEER, external, SYN, seq=100))
    nat.sent(tcp(GUEST, PEER, SYN | ACK, seq=1, ack=101))
    nat.received(tcp(PEER, external, SYN | ACK, seq=100, ack=2))
    assert state(nat) == "established"


@pytest.mark.parametrize("first", ["guest", "peer"])
def test_n16_either_side_may_close_first_while_the_other_sends_on(first):
    nat = Nat()
    external = nat.connect()

    def close() -> None:
        if first == "guest":
            nat.sent(tcp(GUEST, PEER, FIN | ACK, seq=2, ack=101))
        else:
            nat.received(tcp(PEER, external, FIN | ACK, seq=101, ack=2))

    close()
    for i in range(3):
        if first == "guest":
            nat.received(tcp(PEER, external, ACK, b"x", seq=101 + i, ack=3))
        else:
            nat.sent(tcp(GUEST, PEER, ACK, b"x", seq=2 + i, ack=102))
    assert state(nat) != "reset"


def finish(nat: Nat, external: tuple[str, int]) -> None:
    nat.sent(tcp(GUEST, PEER, FIN | ACK, seq=2, ack=101))
    nat.received(tcp(PEER, external, FIN | ACK, seq=101, ack=3))
    nat.sent(tcp(GUEST, PEER, ACK, seq=3, ack=102))
    assert state(nat) == "closing"


@pytest.mark.parametrize("isn", [5000, 2**31 - 1])
def test_n16_time_wait_is_reused_by_a_later_syn(isn):
    nat = Nat()
    external = nat.connect()
    finish(nat, external)
    assert nat.external(tcp(GUEST, PEER, SYN, seq=isn)) == external
    assert state(nat) == "opening"
    nat.received(tcp(PEER, external, SYN | ACK, seq=900, ack=isn + 1))
    nat.sent(tcp(GUEST, PEER, ACK, seq=isn + 1, ack=901))
    assert state(nat) == "established"


def test_n16_a_syn_may_carry_data():
    nat = Nat()
    seen = nat.sent(tcp(GUEST, PEER, SYN, b"early", seq=1, options=b"\x22\x02\x01\x01"))
    assert bytes(seen[TCP].payload) == b"early"


def test_n16_a_reset_and_a_syn_may_follow_back_to_back():
    nat = Nat()
    external = nat.connect()
    nat.sent(tcp(GUEST, PEER, RST, seq=2))
    assert nat.external(tcp(GUEST, PEER, SYN, seq=7000)) == external
    nat.received(tcp(PEER, external, SYN | ACK, seq=900, ack=7001))
    nat.sent(tcp(GUEST, PEER, ACK, seq=7001, ack=901))
    assert state(nat) == "established"


def test_n16_sequence_numbers_may_wrap():
    nat = Nat()
    isn = 0xFFFFFFF0
    external = nat.external(tcp(GUEST, PEER, SYN, seq=isn))
    nat.received(tcp(PEER, external, SYN | ACK, seq=0xFFFFFFFF, ack=isn + 1))
    nat.sent(tcp(GUEST, PEER, ACK, bytes(32), seq=isn + 1, ack=0))
    nat.received(tcp(PEER, external, ACK, seq=0, ack=(isn + 33) % 2**32))
    nat.sent(tcp(GUEST, PEER, RST, seq=(isn + 33) % 2**32))
    assert state(nat) == "reset"


def test_n17_an_unsolicited_syn_gets_no_answer_for_six_seconds():
    nat = Nat(unsolicited_syn="refuse")
    external = nat.external(tcp(GUEST, PEER, SYN))
    assert nat.inbound(tcp((E3, 9), external, SYN)) >= Verdict.DROP_FIRST
    nat.wait(5.9)
    assert nat.emitted() == []


@pytest.mark.parametrize("policy, answers", [("drop", 0), ("refuse", 1)])
def test_n17_an_unsolicited_syn_is_refused_after_six_seconds_if_policy_says_so(policy, answers):
    nat = Nat(unsolicited_syn=policy)
    external = nat.external(tcp(GUEST, PEER, SYN))
    nat.inbound(tcp((E3, 9), external, SYN))
    for _ in range(8):
        nat.wait(1)
        nat.inbound(udp((E3, 9), (EXTERNAL, 1)))
    found = [one for one in nat.answers_outside() if one.dst == E3]
    assert [(one[ICMP].type, one[ICMP].code) for one in found] == [(3, 3)] * answers


def test_n17_an_outbound_syn_within_six_seconds_makes_it_a_simultaneous_open():
    nat = Nat(unsolicited_syn="refuse")
    external = nat.external(tcp(GUEST, PEER, SYN))
    assert nat.inbound(tcp((E3, 9), external, SYN, seq=100)) >= Verdict.DROP_FIRST
    nat.wait(3)
    assert nat.external(tcp(GUEST, (E3, 9), SYN, seq=1)) == external
    for _ in range(8):
        nat.wait(1)
        nat.inbound(udp((E3, 9), (EXTERNAL, 1)))
    assert nat.answers_outside() == []
    nat.received(tcp((E3, 9), external, SYN, seq=100))


def test_a_segment_of_no_connection_is_answered_with_a_reset():
    nat = Nat()
    assert nat.outbound(tcp(GUEST, PEER, ACK | PSH, b"data", seq=5, ack=77)) == Verdict.DROP_NO_FLOW
    (reset,) = nat.answers()
    assert ends(reset) == (PEER, GUEST)
    assert (reset[TCP].flags, reset[TCP].seq) == ("R", 77)


@pytest.mark.parametrize(
    "flags", [0, FIN | PSH | 0x20, SYN | FIN, SYN | RST], ids=["null", "xmas", "syn-fin", "syn-rst"]
)
def test_impossible_flags_are_dropped(flags):
    assert Nat().outbound(tcp(GUEST, PEER, flags)) == Verdict.DROP_BAD_TCP_FLAGS
