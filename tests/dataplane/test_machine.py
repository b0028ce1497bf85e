"""One machine with many addresses, of IPv6 above all, takes no more than one with a single address (N24)."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from arcbox_net import NatEngine
from arcbox_net.dataplane._testing_fragments import LIMITS
from arcbox_net.dataplane._testing_mapping import MACHINE_GUESTS_MAX
from arcbox_net.dataplane.verdict import Direction, Verdict
from tests.support.nat6 import EXTERNAL, REMOTE, engine

GREEDY, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
OUTBOUND, INBOUND = Direction.OUTBOUND, Direction.INBOUND
FORWARD, HELD = Verdict.VERDICT_FORWARD, Verdict.VERDICT_HELD


def address(number: int, prefix: str = "fd00:64::") -> str:
    return f"{prefix}1:{number:x}"


def frame(mac: str, src: str, sport: int = 4000, dst: str = REMOTE, *, hops: int = 64) -> bytearray:
    return bytearray(
        bytes(
            Ether(src=mac, dst="02:00:00:00:00:fe")
            / IPv6(src=src, dst=dst, hlim=hops)
            / UDP(sport=sport, dport=53)
        )
    )


def send(nat: NatEngine, *frames: bytearray) -> list[int]:
    """The verdicts, frame by frame: each is a burst of its own."""
    return [nat.translate([one], OUTBOUND, 0)[0] for one in frames]


def test_n24_a_machine_uses_so_many_addresses_at_a_time_and_another_is_not_concerned() -> None:
    nat = engine(l3_offset=14, conntrack_size=4096)
    assert send(nat, *(frame(GREEDY, address(n)) for n in range(MACHINE_GUESTS_MAX))) == [FORWARD] * 64
    assert send(nat, frame(GREEDY, address(64))) == [Verdict.DROP_GUEST_ADDRESSES]
    assert send(nat, frame(GREEDY, address(63), 4001), frame(OTHER, address(65))) == [FORWARD] * 2
    assert nat.stats()["guests"] == MACHINE_GUESTS_MAX + 1
    nat.flush(guest=address(0))
    nat.expire(1000.0)  # its port is off hold
    assert send(nat, frame(GREEDY, address(64))) == [FORWARD]


def test_n24_flows_are_counted_for_the_machine_whatever_its_addresses() -> None:
    nat = engine(l3_offset=14, flows_per_guest=10)
    assert send(nat, *(frame(GREEDY, address(n)) for n in range(10))) == [FORWARD] * 10
    assert (
        send(nat, frame(GREEDY, address(10)), frame(GREEDY, address(0), 4001))
        == [Verdict.DROP_GUEST_FLOWS] * 2
    )
    assert send(nat, *(frame(OTHER, address(20 + n)) for n in range(10))) == [FORWARD] * 10


def test_n24_ports_are_counted_for_the_machine_whatever_its_addresses() -> None:
    nat = engine(l3_offset=14, port_range=(50000, 50039))
    assert send(nat, *(frame(GREEDY, address(n)) for n in range(10))) == [FORWARD] * 10
    assert send(nat, frame(GREEDY, address(10))) == [Verdict.DROP_GUEST_PORTS]
    assert send(nat, *(frame(OTHER, address(20 + n)) for n in range(10))) == [FORWARD] * 10


def test_n24_an_address_that_is_another_machines_now_brings_that_none_of_its_flows() -> None:
    nat = engine(l3_offset=14, flows_per_guest=10)
    send(nat, *(frame(GREEDY, address(0), 4000 + n) for n in range(10)))
    assert send(nat, frame(GREEDY, address(0), 5000)) == [Verdict.DROP_GUEST_FLOWS]
    assert send(nat, *(frame(OTHER, address(0), 5000 + n) for n in range(10))) == [FORWARD] * 10


def test_n2_a_machine_leaves_by_the_address_that_its_forward_has() -> None:
    second = "2001:db8:1::2"
    for external in (EXTERNAL, second):
        nat = engine(l3_offset=14, external_ip6=[EXTERNAL, second])
        nat.add_forward("udp", 8080, address(0), external_ip=external)
        send(nat, frame(GREEDY, address(0)))
        assert {one.external.address for one in nat.mappings()} == {external}


def test_i7_errors_are_counted_for_the_machine_whatever_its_addresses() -> None:
    nat = engine(l3_offset=14)
    burst = [frame(GREEDY, address(n), hops=1) for n in range(40)] + [frame(OTHER, address(50), hops=1)]
    nat.translate(burst, OUTBOUND, 0)
    told = [Ether(one.frame).dst for one in nat.emitted()]
    assert (told.count(GREEDY), told.count(OTHER)) == (25, 1)


def fragment(mac: str, src: str, dst: str, identification: int, *, last: bool = False) -> bytearray:
    part = IPv6ExtHdrFragment(nh=17, id=identification, m=int(not last), offset=1 if last else 0)
    body = bytes(8) if last else struct.pack("!HHHH", 4000, 53, 16, 0)
    return bytearray(
        bytes(Ether(src=mac, dst="02:00:00:00:00:fe") / IPv6(src=src, dst=dst) / part / Raw(body))
    )


def test_n24_datagrams_that_wait_are_counted_for_the_machine_whatever_its_addresses() -> None:
    nat = engine(l3_offset=14)
    send(nat, fragment(OTHER, address(900), REMOTE, 1))
    count = 2 * LIMITS["datagrams_share"]
    assert send(nat, *(fragment(GREEDY, address(n), REMOTE, n) for n in range(count))) == [HELD] * count
    assert nat.stats()["datagrams_evicted"] == count - LIMITS["datagrams_owner"]


def test_n24_outside_all_addresses_of_a_prefix_are_one_sender() -> None:
    nat = engine(l3_offset=14)
    frames = [fragment(GREEDY, address(n, "2001:db8:bad::"), EXTERNAL, n) for n in range(100)]
    for one in (fragment(GREEDY, REMOTE, EXTERNAL, 1), *frames):
        assert nat.translate([one], INBOUND, 0) == bytes([HELD])
    assert nat.stats()["datagrams_evicted"] == 100 - LIMITS["datagrams_owner"]


@pytest.mark.parametrize(
    ("told", "verdict"),
    [
        ({"guest_by": "address"}, FORWARD),
        ({"guest_by": "address", "guest_prefix6": 112}, Verdict.DROP_GUEST_FLOWS),
        ({"guest_by": "address", "guest_prefix6": 128}, FORWARD),
        ({}, Verdict.DROP_GUEST_FLOWS),
    ],
)
def test_behind_a_router_guests_are_told_apart_by_their_addresses(
    told: dict[str, object], verdict: int
) -> None:
    nat = engine(l3_offset=14, flows_per_guest=1, **told)
    assert send(nat, frame(GREEDY, address(1)), frame(GREEDY, address(2))) == [FORWARD, verdict]
    assert send(nat, frame(OTHER, "fd00:64::2:1")) == [FORWARD]
