"""How long a flow lives, which packets keep it alive, and which floors no configuration goes below."""

from __future__ import annotations

import pytest

from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.verdict import Verdict
from arcbox_net.errors import ConfigError
from tests.support.frames import ACK, FIN, RST, SYN, Endpoint, icmp, tcp, udp
from tests.support.nat import E2, EXTERNAL, A, Nat

PEER = (E2, 80)


def alive(nat: Nat) -> bool:
    return bool(nat.flows())


def lives(nat: Nat, timeout_s: float) -> bool:
    """Whether the one flow is there for *timeout_s* more and gone two seconds later."""
    nat.wait(timeout_s - 0.001)
    if not alive(nat):
        return False
    nat.wait(2)
    return not alive(nat)


def test_n5_a_udp_mapping_never_expires_early():
    nat = Nat(udp_timeout_s=120)
    nat.sent(udp((A, 4000), PEER))
    assert lives(nat, 120)


def test_n5_the_default_is_five_minutes():
    nat = Nat()
    nat.sent(udp((A, 4000), PEER))
    assert lives(nat, 300)


@pytest.mark.parametrize(
    "timeouts, number, expected", [(None, 53, 30), ({5060: 10}, 5060, 10), ({5060: 900}, 5060, 900)]
)
def test_n5_a_destination_port_may_have_its_own_timer(timeouts, number, expected):
    nat = Nat(**({} if timeouts is None else {"udp_port_timeouts_s": timeouts}))
    nat.sent(udp((A, 4000), (E2, number)))
    assert lives(nat, expected)


def test_n6_an_outbound_packet_refreshes():
    nat = Nat()
    nat.sent(udp((A, 4000), PEER))
    nat.wait(299)
    nat.sent(udp((A, 4000), PEER))
    assert lives(nat, 300)


@pytest.mark.parametrize("refresh, expected", [(False, 300), (True, 599)])
def test_n6_an_inbound_packet_refreshes_only_when_it_is_asked_to(refresh, expected):
    nat = Nat(inbound_refresh=refresh)
    external = nat.external(udp((A, 4000), PEER))
    nat.wait(299)
    nat.received(udp(PEER, external))
    assert lives(nat, expected - 299)


def test_n6_a_filtered_packet_refreshes_nothing():
    nat = Nat(inbound_refresh=True)
    external = nat.external(udp((A, 4000), PEER))
    nat.wait(299)
    assert nat.inbound(udp((E2, 81), external)) == Verdict.DROP_FILTERED
    assert lives(nat, 1)


def test_n18_an_established_connection_lives_for_two_hours_and_four_minutes():
    nat = Nat()
    nat.connect()
    assert lives(nat, 7440)


@pytest.mark.parametrize("answered", [False, True])
def test_n18_a_partial_open_lives_for_four_minutes(answered):
    nat = Nat()
    external = nat.external(tcp((A, 4000), PEER, SYN, seq=1))
    if answered:
        nat.received(tcp(PEER, external, SYN | ACK, seq=100, ack=2))
    assert lives(nat, 240)


def close(nat: Nat, external: Endpoint) -> None:
    nat.sent(tcp((A, 4000), PEER, FIN | ACK, seq=2, ack=101))
    nat.received(tcp(PEER, external, FIN | ACK, seq=101, ack=3))
    nat.sent(tcp((A, 4000), PEER, ACK, seq=3, ack=102))


def test_n18_a_closing_connection_lives_for_four_minutes():
    nat = Nat()
    close(nat, nat.connect())
    assert lives(nat, 240)


def test_n18_a_half_closed_connection_lives_as_long_as_an_established_one():
    nat = Nat()
    external = nat.connect()
    nat.sent(tcp((A, 4000), PEER, FIN | ACK, seq=2, ack=101))
    nat.received(tcp(PEER, external, ACK, seq=101, ack=3))
    nat.wait(7439)
    assert alive(nat)


@pytest.mark.parametrize(
    "field, floor",
    [
        ("udp_timeout_s", 120),
        ("tcp_established_timeout_s", 7440),
        ("tcp_partial_timeout_s", 240),
        ("tcp_closing_timeout_s", 240),
        ("tcp_reset_timeout_s", 240),
        ("icmp_timeout_s", 60),
        ("port_hold_s", 120),
    ],
)
def test_n18_no_timer_goes_below_its_floor_unless_told(field, floor):
    NatEngineConfig(EXTERNAL, **{field: floor})
    with pytest.raises(ConfigError, match=field):
        NatEngineConfig(EXTERNAL, **{field: floor - 1})
    NatEngineConfig(EXTERNAL, **{field: floor - 1}, unsafe=True)


def test_n19_a_reset_connection_lives_for_four_minutes_more():
    nat = Nat()
    external = nat.connect()
    nat.received(tcp(PEER, external, RST, seq=101))
    (flow,) = nat.flows()
    assert flow.state == "reset"
    assert lives(nat, 240)


@pytest.mark.parametrize("seq", [100, 101 + 70_000, (101 - 2**31) % 2**32])
def test_n19_a_reset_outside_the_window_changes_nothing(seq):
    nat = Nat()
    external = nat.connect()
    nat.inbound(tcp(PEER, external, RST, seq=seq))
    (flow,) = nat.flows()
    assert flow.state == "established"
    nat.wait(7000)
    assert alive(nat)


def test_n20_answers_to_inbound_packets_refresh_nothing():
    nat = Nat()
    external = nat.external(udp((A, 4000), PEER))
    nat.wait(299)
    from_outside = udp(PEER, external)
    nat.received(from_outside)
    nat.sent(icmp(A, E2, 3, 3, 0, bytes(from_outside)[:28]))
    assert lives(nat, 1)


def test_n20_a_reset_in_answer_to_an_inbound_packet_refreshes_nothing():
    nat = Nat()
    external = nat.connect()
    nat.wait(7000)
    nat.received(tcp(PEER, external, ACK, seq=101, ack=2))
    nat.sent(tcp((A, 4000), PEER, RST, seq=2))
    assert lives(nat, 240)
