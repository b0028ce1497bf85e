"""Two switches of one network: what one learns the other knows. Guests 0 and 1 and the uplink are on both's tables."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from scapy.layers.l2 import Ether

from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from arcbox_net.errors import LimitReached
from tests.support.switch import GATEWAY_MAC, UPLINK, Segment, guest, ip6_of, network, tcp4, udp6

STRANGER = "02:00:00:00:0a:01"
FREE = "fd00:64::abcd"
AGE_S = 300
OWNED_FOR_S = 600
TOLD_S = 32  # the span in which an address is told once


@dataclass
class Pair:
    """Two workers' segments: whatever is bound in one is bound in the other."""

    one: Segment
    other: Segment

    def bind(self, number: int, binding: PortBinding) -> None:
        for segment in (self.one, self.other):
            segment.bind(number, binding)

    def pass_time(self, seconds: int) -> None:
        for segment in (self.one, self.other):
            segment.lab.tick(10 * seconds)


@pytest.fixture
def pair() -> Pair:
    switches = [Switch(), Switch()]
    Switch.join(switches)
    return Pair(*(_segment(switch) for switch in switches))


def _segment(switch: Switch) -> Segment:
    segment = Segment.__new__(Segment)
    segment.switch, segment.lab = switch, Lab(switch, 4)
    for number in range(2):
        segment.bind(number, guest(number))
    segment.bind(UPLINK, PortBinding("uplink", mac=GATEWAY_MAC))
    switch.set_network(segment.lab, UPLINK, network())
    return segment


def from_stranger(to: int) -> Ether:
    return Ether(src=STRANGER, dst=tcp4(to, to).dst) / tcp4(1, to).payload


def to_stranger(source: int) -> Ether:
    return Ether(src=tcp4(source, 1).src, dst=STRANGER) / tcp4(source, 1).payload


def learned(segment: Segment) -> dict[str, int]:
    return {
        entry.mac: entry.port for entry in segment.switch.fdb(segment.lab, UPLINK) if entry.age_s is not None
    }


def test_mac_learned_by_one_is_known_to_the_other(pair: Pair) -> None:
    pair.bind(2, PortBinding("trusted"))
    assert pair.other.reaches(0, to_stranger(0)) == {2, UPLINK}
    assert pair.one.reaches(UPLINK, from_stranger(1)) == {1}
    assert pair.other.reaches(0, to_stranger(0)) == {UPLINK}


def test_mac_learned_by_one_is_not_to_be_had_at_the_other(pair: Pair) -> None:
    pair.bind(2, PortBinding("trusted"))
    pair.one.send(UPLINK, from_stranger(1))
    assert pair.other.reason(2, from_stranger(0)) == "source_mac"


def test_l5_ipv6_address_claimed_at_one_is_not_to_be_had_at_the_other(pair: Pair) -> None:
    assert pair.one.reaches(0, udp6(0, 1, src=FREE)) == {1}
    assert pair.other.reason(1, udp6(1, 0, src=FREE)) == "source_ip"
    assert pair.other.reaches(1, udp6(1, 0, src=ip6_of(1))) == {0}


def test_what_is_in_use_at_one_does_not_age_at_the_other(pair: Pair) -> None:
    pair.bind(2, PortBinding("trusted"))
    for _ in range(12):
        pair.one.send(UPLINK, from_stranger(1))
        pair.one.send(0, udp6(0, 1, src=FREE))
        pair.pass_time(60)
    assert pair.other.reason(2, from_stranger(0)) == "source_mac"
    assert pair.other.reason(1, udp6(1, 0, src=FREE)) == "source_ip"


def test_what_is_no_longer_used_ages_in_both(pair: Pair) -> None:
    pair.one.send(UPLINK, from_stranger(1))
    assert learned(pair.other) == {STRANGER: UPLINK}
    pair.pass_time(AGE_S + TOLD_S)
    assert learned(pair.one) == learned(pair.other) == {}


def test_a_mac_in_use_is_free_nowhere_before_its_own_worker_lets_it_go(pair: Pair) -> None:
    """Port 2 used it last at the end of the span in which it was told, and 1 is the lower number."""
    pair.bind(1, PortBinding("trusted"))
    pair.bind(2, PortBinding("trusted"))
    pair.one.send(2, from_stranger(0))
    pair.pass_time(TOLD_S - 3)
    pair.one.send(2, from_stranger(0))
    pair.pass_time(AGE_S - 2)
    assert pair.other.reason(1, from_stranger(0)) == "source_mac"
    assert learned(pair.one) == learned(pair.other) == {STRANGER: 2}


def test_an_ipv6_address_in_use_is_free_nowhere_before_its_own_worker_lets_it_go(pair: Pair) -> None:
    pair.one.send(1, udp6(1, 0, src=FREE))
    pair.pass_time(TOLD_S - 3)
    pair.one.send(1, udp6(1, 0, src=FREE))
    pair.pass_time(OWNED_FOR_S - 2)
    assert pair.other.reason(0, udp6(0, 1, src=FREE)) == "source_ip"
    assert pair.one.reaches(1, udp6(1, 0, src=FREE)) == {0}


def test_two_workers_with_a_port_each_forget_a_mac_together(pair: Pair) -> None:
    """The uplink is a port of every worker, and its latest frame counts, whoever had it."""
    pair.one.send(UPLINK, from_stranger(1))
    pair.other.send(UPLINK, from_stranger(1))
    pair.pass_time(TOLD_S - 3)
    pair.one.send(UPLINK, from_stranger(1))
    pair.pass_time(AGE_S - 2)
    assert learned(pair.one) == learned(pair.other) == {STRANGER: UPLINK}
    pair.pass_time(4)
    assert learned(pair.one) == learned(pair.other) == {}


def test_an_address_taken_at_both_belongs_to_the_lower_number_in_both(pair: Pair) -> None:
    """Port 2 claims it while the other worker has yet to hear of the uplink's claim, and the other way round."""
    pair.bind(2, PortBinding("trusted"))
    pair.one.send(UPLINK, from_stranger(1))
    learned(pair.other)
    pair.other.lab.tick(10 * (AGE_S + TOLD_S))  # its clock is ahead, so there the address is free
    pair.other.send(2, from_stranger(0))
    assert learned(pair.other) == learned(pair.one) == {STRANGER: 2}
    assert pair.one.reason(UPLINK, from_stranger(1)) == "source_mac"


def test_the_lower_number_takes_an_address_back_when_it_is_used(pair: Pair) -> None:
    pair.bind(2, PortBinding("trusted"))
    pair.one.send(2, from_stranger(1))
    learned(pair.other)
    pair.other.lab.tick(10 * (AGE_S + TOLD_S))
    pair.other.send(UPLINK, from_stranger(0))
    assert learned(pair.one) == {STRANGER: 2}
    pair.one.lab.tick(10 * 40)
    pair.one.send(2, from_stranger(1))
    assert learned(pair.other) == {STRANGER: 2}


def test_what_a_port_said_before_it_was_unbound_is_not_its_successors(pair: Pair) -> None:
    pair.bind(2, PortBinding("trusted"))
    pair.one.send(2, from_stranger(1))
    pair.other.switch.unbind(pair.other.lab, 2)
    pair.one.switch.unbind(pair.one.lab, 2)
    pair.bind(2, PortBinding("trusted"))
    assert learned(pair.one) == learned(pair.other) == {}


def test_static_addresses_are_not_overruled_by_what_another_has_learned(pair: Pair) -> None:
    pair.bind(0, PortBinding("trusted"))  # the lower number, which wins of two that are learned
    pair.other.bind(2, PortBinding(mac=STRANGER))
    pair.one.send(0, from_stranger(1))
    assert pair.other.reaches(1, to_stranger(1)) == {2}


def test_more_switches_than_a_network_has_are_refused() -> None:
    Switch.join([Switch() for _ in range(16)])
    with pytest.raises(LimitReached):
        Switch.join([Switch() for _ in range(17)])
