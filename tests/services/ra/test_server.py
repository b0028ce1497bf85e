"""When advertisements leave and what they say, by a clock that the test turns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptRDNSS

from arcbox_net.services.dhcp.rate import BURST_S
from arcbox_net.services.ra.server import (
    ALL_NODES,
    INITIAL_MAX,
    INITIAL_S_MAX,
    INTERVAL_S_MAX,
    INTERVAL_S_MIN,
    MULTICAST_GAP_S,
    REPLIES_PENDING_MAX,
    REPLIES_PER_S,
    REPLY_DELAY_S_MAX,
    ROUTER_S,
    Packet,
    RaServer,
    RaSettings,
)

SUBNET = IPv6Network("fd12:3456:789a::/64")
GATEWAY = IPv6Address("fd12:3456:789a::1")
SETTINGS = RaSettings(
    subnet=SUBNET, mac=bytes.fromhex("020000000001"), mtu=1500, dns=(GATEWAY,), search=("dev.internal",)
)
NOBODY = IPv6Address("::")
SOLICITATION = bytes(ICMPv6ND_RS(cksum=0))


def guest(number: int) -> IPv6Address:
    return IPv6Address("fe80::") + 0x1000 + number


class Link:
    """A server, its clock, and what it sent: (time, packet)."""

    def __init__(self, *, default_router: bool = False, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.chance = chance
        self.server = RaServer(SETTINGS, lambda: self.chance, self.now, default_router=default_router)
        self.sent: list[tuple[float, Packet]] = []

    def ask(self, source: IPv6Address) -> None:
        self.server.handle(SOLICITATION, source, 255, self.now)

    def until(self, end: float) -> Iterator[tuple[float, Packet]]:
        """Everything that is sent up to *end*."""
        while self.server.alarm() <= end:
            self.now = max(self.now, self.server.alarm())
            for packet in self.server.due(self.now):
                self.server.sent(packet)
                yield self.now, packet
        self.now = end

    def run(self, seconds: float) -> list[tuple[float, Packet]]:
        return list(self.until(self.now + seconds))

    def quiet(self) -> None:
        """Past the first advertisements, with the next one far away."""
        self.run(INITIAL_MAX * INITIAL_S_MAX + 1)


def lifetime(packet: Packet) -> int:
    return int(ICMPv6ND_RA(packet.payload).routerlifetime)


def test_s1_a_guest_that_asks_is_answered_at_its_address_within_the_delay() -> None:
    link = Link()
    link.quiet()
    asked = link.now
    link.ask(guest(1))
    ((at, packet),) = link.run(1.0)
    assert packet.destination == guest(1)
    assert asked <= at <= asked + REPLY_DELAY_S_MAX < asked + 1.0


def test_s1_a_guest_without_address_is_answered_by_multicast() -> None:
    link = Link()
    link.quiet()
    link.ask(NOBODY)
    ((at, packet),) = link.run(1.0)
    assert packet.destination == ALL_NODES
    assert at <= link.now


def test_multicasts_keep_their_distance_whoever_asks() -> None:
    link = Link()
    times: list[float] = []
    for _ in range(100):
        link.ask(NOBODY)
        times += [at for at, packet in link.run(0.1) if packet.destination == ALL_NODES]
    assert len(times) >= 2
    assert all(later - at >= MULTICAST_GAP_S for at, later in itertools.pairwise(times))


def test_the_first_guest_is_told_as_soon_as_the_link_can_tell_it() -> None:
    link = Link()
    for packet in link.server.due(link.now):
        link.server.unsent(packet)
    assert link.run(0.1) == []
    came_up = link.now
    link.server.link_came_up(came_up)
    ((at, packet),) = link.run(0.1)
    assert (at, packet.destination) == (came_up, ALL_NODES)
    assert link.server.stats() == {"drop_send": 1, "multicasts": 1}


def test_multicasts_keep_their_distance_however_often_the_link_comes_up() -> None:
    link = Link()
    times: list[float] = []
    for _ in range(100):
        link.server.link_came_up(link.now)
        times += [at for at, _ in link.run(0.1)]
    assert len(times) >= 2
    assert all(later - at >= MULTICAST_GAP_S for at, later in itertools.pairwise(times))


def test_a_guest_that_keeps_asking_is_answered_at_its_rate_and_the_rest_counted() -> None:
    link = Link()
    link.quiet()
    for _ in range(50):
        link.ask(guest(1))
        link.run(0.1)
    stats = link.server.stats()
    assert stats["unicasts"] + stats["drop_rate"] == 50
    assert stats["unicasts"] <= 5 + BURST_S + 1


def test_a_guest_that_asks_twice_at_once_is_answered_once() -> None:
    link = Link()
    link.quiet()
    link.ask(guest(1))
    link.ask(guest(1))
    assert len(link.run(1.0)) == 1
    assert "drop_rate" not in link.server.stats()


def test_when_all_ask_at_once_one_multicast_answers_those_over_the_limit() -> None:
    link = Link()
    link.quiet()
    for i in range(REPLIES_PENDING_MAX):
        link.ask(guest(i))
    assert len({packet.destination for _, packet in link.run(1.0)}) == REPLIES_PENDING_MAX
    link.run(60)
    for i in range(REPLIES_PENDING_MAX + 1):
        link.ask(guest(1000 + i))
    destinations = [packet.destination for _, packet in link.run(1.0)]
    assert len(destinations) == REPLIES_PENDING_MAX + 1
    assert guest(1000 + REPLIES_PENDING_MAX) not in destinations and ALL_NODES in destinations


def test_many_guests_with_invented_addresses_get_no_more_than_the_rate_of_all() -> None:
    link = Link()
    link.quiet()
    sent: list[tuple[float, Packet]] = []
    for i in range(5000):
        link.ask(guest(i))
        sent += link.run(0.001)
    unicasts = [packet for _, packet in sent if packet.destination != ALL_NODES]
    assert len(unicasts) <= REPLIES_PER_S * (5.0 + BURST_S) + 1
    assert len(sent) - len(unicasts) <= 3


def test_first_advertisements_are_close_and_later_ones_within_the_interval() -> None:
    for chance in (0.0, 0.3, 0.999):
        link = Link(chance=chance)
        times = [at for at, _ in link.run(20 * INTERVAL_S_MAX)]
        assert times[0] == 1000.0
        gaps = [later - at for at, later in itertools.pairwise(times)]
        assert all(gap <= INITIAL_S_MAX for gap in gaps[: INITIAL_MAX - 1])
        assert all(INTERVAL_S_MIN <= gap <= INTERVAL_S_MAX for gap in gaps[INITIAL_MAX - 1 :])
        assert len(gaps) > 2 * INITIAL_MAX


def test_intervals_differ_as_chance_does() -> None:
    link = Link(chance=0.0)
    link.quiet()
    gaps = []
    for chance in (0.1, 0.9, 0.5):
        link.chance = chance
        (first, _), *_ = link.run(INTERVAL_S_MAX)
        gaps.append(first)
    assert len({round(later - at) for at, later in itertools.pairwise(gaps)}) == 2


def test_guests_have_no_default_route_while_the_host_has_none_and_hear_of_it_at_once() -> None:
    link = Link()
    link.quiet()
    link.ask(guest(1))
    assert [lifetime(packet) for _, packet in link.run(1.0)] == [0]
    link.run(MULTICAST_GAP_S)
    changed = link.now
    link.server.set_default_router(True, link.now)
    sent = link.run(2 * INITIAL_S_MAX + 1)
    assert sent[0][0] == changed
    assert [lifetime(packet) for _, packet in sent] == [ROUTER_S] * INITIAL_MAX
    link.server.set_default_router(False, link.now)
    assert [lifetime(packet) for _, packet in link.run(MULTICAST_GAP_S)] == [0]


def test_a_default_route_that_flaps_costs_one_multicast_each_gap_and_the_last_word_counts() -> None:
    link = Link()
    link.quiet()
    start = link.now
    sent: list[tuple[float, Packet]] = []
    for i in range(100):
        link.server.set_default_router(i % 2 == 0, link.now)
        sent += link.run(0.1)
    sent += link.run(MULTICAST_GAP_S)
    assert len(sent) <= (link.now - start) / MULTICAST_GAP_S + 1
    assert lifetime(sent[-1][1]) == 0


def test_what_did_not_change_is_not_told() -> None:
    link = Link(default_router=True)
    link.quiet()
    link.server.set_default_router(True, link.now)
    assert link.run(INITIAL_S_MAX) == []


def test_the_final_word_is_that_this_is_no_router_and_no_dns_server() -> None:
    found = ICMPv6ND_RA(Link(default_router=True).server.final().payload)
    assert found.routerlifetime == 0
    assert found[ICMPv6NDOptRDNSS].lifetime == 0


@pytest.mark.parametrize(
    ("packet", "hop_limit", "reason"),
    [
        (SOLICITATION, 64, "drop_hop-limit"),
        (SOLICITATION[:4], 255, "drop_short"),
        (SOLICITATION + b"\1\0", 255, "drop_option-length"),
    ],
)
def test_bad_packets_are_counted_and_answered_by_nothing(packet: bytes, hop_limit: int, reason: str) -> None:
    link = Link()
    link.quiet()
    link.server.handle(packet, guest(1), hop_limit, link.now)
    assert link.run(1.0) == []
    assert link.server.stats()[reason] == 1
