"""MACs, subnets, and the allocator: no address has two owners, and every free one can be had."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from arcbox_net.addresses import (
    IpAllocator,
    candidate_subnets,
    eui64_address,
    format_mac,
    parse_mac,
    parse_subnet,
    parse_subnet6,
    stable_mac,
    ula_subnet,
)
from arcbox_net.errors import AddressInUse, AddressNotFound, ConfigError, PoolExhausted

IP = ipaddress.IPv4Address
FIRST, LAST = IP("192.168.64.2"), IP("192.168.64.9")


@pytest.mark.parametrize(
    "text",
    [
        "02:00:00:12:34:56",
        "02-00-00-12-34-56",
        "02:00:00:12:34:5A",
        " 02:00:00:12:34:5a ",
        "52:54:00:00:00:01",
    ],
)
def test_a_unicast_mac_is_six_bytes(text: str) -> None:
    assert format_mac(parse_mac(text)) == text.strip().lower().replace("-", ":")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02:00:00:12:34",
        "02:00:00:12:34:56:78",
        "0200.0012.3456",
        "02:00:00:12:34:5g",
        "2:0:0:12:34:56",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "０2:00:00:12:34:56",
    ],
)
def test_what_no_guest_can_have_as_a_mac_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_mac(text)
    assert caught.value.field == "mac"


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_a_made_mac_is_stable_local_and_unicast(identity: list[str]) -> None:
    mac = parse_mac(stable_mac(*identity))
    assert mac[0] == 0x02
    assert stable_mac(*identity) == format_mac(mac)


def test_a_made_mac_depends_on_where_the_words_end() -> None:
    assert stable_mac("ab", "c") != stable_mac("a", "bc")


@pytest.mark.parametrize(
    "text", ["192.168.64.0/24", "10.0.0.0/8", "172.16.4.0/29", "192.168.0.0/255.255.255.0"]
)
def test_a_private_subnet_with_room_is_accepted(text: str) -> None:
    assert parse_subnet(text) == ipaddress.IPv4Network(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("192.168.64.1/24", "host bits"),
        ("192.168.64.0/30", "/8 to /29"),
        ("192.168.64.0/32", "/8 to /29"),
        ("0.0.0.0/0", "/8 to /29"),
        ("8.8.8.0/24", "not a private range"),
        ("127.0.0.0/24", "not a private range"),
        ("169.254.0.0/24", "not a private range"),
        ("224.0.0.0/24", "not a private range"),
        ("192.168.64.0/33", "192.168.64.0/33"),
        ("fd00::/64", "fd00::"),
        ("lan", "lan"),
        ("", "subnet ''"),
    ],
)
def test_a_subnet_that_cannot_be_a_guest_network_says_why(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_subnet(text)
    assert caught.value.field == "subnet"


@pytest.mark.parametrize("first", ["192.168.64.0/24", "10.0.0.0/24", "172.31.255.0/24", "10.0.0.0/9"])
def test_auto_tries_every_neighbour_once_inside_the_same_private_block(first: str) -> None:
    subnets = list(candidate_subnets(parse_subnet(first)))
    assert subnets[0] == parse_subnet(first)
    assert len(set(subnets)) == len(subnets)
    assert all(subnet.is_private and subnet.prefixlen == subnets[0].prefixlen for subnet in subnets)


def test_free_addresses_go_out_lowest_first_and_a_released_one_is_not_reused_at_once() -> None:
    pool = IpAllocator(FIRST, LAST)
    assert [pool.take_any("a"), pool.take_any("b")] == [FIRST, FIRST + 1]
    pool.release(FIRST)
    assert pool.take_any("c") == FIRST + 2


def test_a_full_pool_says_how_large_it_is() -> None:
    pool = IpAllocator(FIRST, LAST)
    for i in range(pool.size):
        pool.take_any(f"guest{i}")
    assert pool.available == 0
    with pytest.raises(PoolExhausted) as caught:
        pool.take_any("late")
    assert caught.value.size == 8
    assert caught.value.fix
    pool.release(FIRST + 3)
    assert pool.take_any("late") == FIRST + 3


def test_only_addresses_that_the_caller_finds_usable_are_given() -> None:
    pool = IpAllocator(FIRST, LAST)
    assert pool.take_any("a", usable=lambda address: int(address) % 2 == 1) == IP("192.168.64.3")
    with pytest.raises(PoolExhausted):
        pool.take_any("b", usable=lambda address: False)


def test_an_address_of_another_owner_names_that_owner() -> None:
    pool = IpAllocator(FIRST, LAST)
    pool.take(FIRST, "vm1")
    pool.take(FIRST, "vm1")
    with pytest.raises(AddressInUse) as caught:
        pool.take(FIRST, "vm2")
    assert caught.value.holder == "vm1"


def test_releasing_a_free_address_is_an_error() -> None:
    with pytest.raises(AddressNotFound):
        IpAllocator(FIRST, LAST).release(FIRST)


def test_a_pool_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ConfigError):
        IpAllocator(LAST, FIRST)


class AllocatorMachine(RuleBasedStateMachine):
    """The allocator against a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = IpAllocator(FIRST, LAST)
        self.model: dict[IP, str] = {}

    addresses = st.integers(int(FIRST) - 1, int(LAST) + 1).map(IP)
    holders = st.sampled_from(["a", "b", "c"])

    @rule(address=addresses, holder=holders)
    def take(self, address: IP, holder: str) -> None:
        if self.model.get(address, holder) != holder:
            with pytest.raises(AddressInUse):
                self.pool.take(address, holder)
        else:
            self.pool.take(address, holder)
            self.model[address] = holder

    @rule(holder=holders)
    def take_any(self, holder: str) -> None:
        try:
            address = self.pool.take_any(holder)
        except PoolExhausted:
            assert all(IP(value) in self.model for value in range(int(FIRST), int(LAST) + 1))
            return
        assert address not in self.model
        assert FIRST <= address <= LAST
        self.model[address] = holder

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.model)))
        assert self.pool.release(address) == self.model.pop(address)

    @invariant()
    def agrees(self) -> None:
        assert dict(self.pool.held()) == self.model
        inside = sum(FIRST <= address <= LAST for address in self.model)
        assert self.pool.available == self.pool.size - inside


TestAllocator = AllocatorMachine.TestCase


def test_a_ula_is_fd_the_global_id_and_the_first_subnet() -> None:
    assert ula_subnet(bytes.fromhex("123456789a")) == ipaddress.IPv6Network("fd12:3456:789a::/64")
    assert parse_subnet6(str(ula_subnet(b"\0" * 5))) == ipaddress.IPv6Network("fd00::/64")
    for wrong in (b"\0" * 4, b"\0" * 6):
        with pytest.raises(ValueError, match="5 bytes"):
            ula_subnet(wrong)


@pytest.mark.parametrize(
    ("mac", "identifier"),
    [
        # RFC 4291 appendix A: the universal/local bit is turned over, ff:fe goes in the middle.
        ("34:56:78:9a:bc:de", "3656:78ff:fe9a:bcde"),
        ("02:00:00:00:00:01", "0:ff:fe00:1"),
    ],
)
def test_eui64_addresses_are_those_that_a_kernel_makes(mac: str, identifier: str) -> None:
    subnet = ipaddress.IPv6Network("fd00:0:0:7::/64")
    assert eui64_address(subnet, parse_mac(mac)) == ipaddress.IPv6Address(f"fd00:0:0:7:{identifier}")
