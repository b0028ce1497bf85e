"""Interned addresses, beside a dict of address to how often it is held."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum

from arcbox_net.dataplane._testing_addresses import Addresses

ROOM = 4
OCTETS = [bytes(15) + bytes([last]) for last in range(6)] + [b"\xfd" + bytes(14) + b"\x01"]


@given(st.lists(st.tuples(st.sampled_from(["take", "hold", "drop"]), st.sampled_from(OCTETS))))
def test_an_address_keeps_its_number_as_long_as_it_is_held(steps: list[tuple[str, bytes]]) -> None:
    table = Addresses(ROOM)
    holders: dict[bytes, int] = {}
    numbers: dict[bytes, int] = {}
    for step, octets in steps:
        if step == "take":
            number = table.take(octets)
            assert (number is None) == (octets not in holders and len(holders) == ROOM)
            if number is None:
                continue
            assert numbers.setdefault(octets, number) == number
            holders[octets] = holders.get(octets, 0) + 1
        elif octets in holders:
            getattr(table, step)(numbers[octets])
            holders[octets] += 1 if step == "hold" else -1
            if holders[octets] == 0:
                del holders[octets], numbers[octets]
        assert len(table) == len(holders) == len(set(numbers.values()))
        assert {o: table.find(o) for o in OCTETS} == {o: numbers.get(o) for o in OCTETS}
        assert all(table.octets(number) == o for o, number in numbers.items())


def test_a_table_takes_as_many_addresses_as_it_was_made_for_and_not_one_more() -> None:
    table = Addresses(1000)
    octets = [index.to_bytes(16, "big") for index in range(1001)]
    numbers = [table.take(o) for o in octets[:1000]]
    assert None not in numbers and len(set(numbers)) == 1000
    assert table.take(octets[1000]) is None
    assert table.take(octets[0]) == numbers[0]


def test_a_number_is_no_address_that_an_ipv4_packet_may_have() -> None:
    table = Addresses(2)
    for octets in OCTETS[:2]:
        number = table.take(octets)
        assert number is not None
        assert IPv4Address(number.to_bytes(4, "little")).is_reserved


def test_holding_or_dropping_an_ipv4_address_does_nothing() -> None:
    table = Addresses(1)
    for text in ("192.0.2.1", "10.0.0.0", "0.0.0.0"):
        address = int.from_bytes(IPv4Address(text).packed, "little")
        table.hold(address)
        table.drop(address)
    assert len(table) == 0


@given(st.binary(min_size=16, max_size=16))
def test_the_sum_of_either_family_is_that_of_its_words(octets: bytes) -> None:
    table = Addresses(1)
    number = table.take(octets)
    assert number is not None
    assert int.from_bytes(table.sum(number), "big") == 0xFFFF ^ checksum(octets)
    four = bytes([10]) + octets[1:4]
    assert int.from_bytes(table.sum(int.from_bytes(four, "little")), "big") == 0xFFFF ^ checksum(four)
