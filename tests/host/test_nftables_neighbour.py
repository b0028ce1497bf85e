"""Row L5: which IPv6 addresses a guest may use and speak for, on a real bridge with a prefix of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from arcbox_net.host.linux.rules_neighbour import CLAIMS_BURST_MAX
from tests.host import firewall_lab as lab
from tests.host.firewall_lab import Guest, Lab, arrives, ethernet, icmpv6, ipv6, neighbour_discovery, udp
from tests.support import netns
from tests.support.netns import Host, wait_until

pytestmark = [pytest.mark.e2e, netns.requires_root]
SUBNET6 = IPv6Network("fd12:3456:789a::/64")
GATEWAY6 = str(SUBNET6[1])
ALL_NODES = "33:33:00:00:00:01"
NS, NA = 135, 136
_numbers = itertools.count(0x1000)


@pytest.fixture(scope="module")
def network() -> Iterator[Lab]:
    with Host(world=False) as host:
        yield Lab(host, subnet6=SUBNET6, gateway6=IPv6Address(GATEWAY6))


@pytest.fixture(scope="module")
def alice(network: Lab) -> Guest:
    return quiet(network)


@pytest.fixture(scope="module")
def bob(network: Lab) -> Guest:
    return quiet(network)


def quiet(network: Lab) -> Guest:
    """A guest whose own kernel speaks no IPv6."""
    return network.guest(speaks_ipv6=False)


def fresh() -> str:
    """An address of the prefix that nobody has used."""
    return str(SUBNET6[next(_numbers)])


def unicast(sender: Guest, receiver: Guest, source: str, payload: bytes = b"hello") -> bytes:
    packet = ipv6(17, udp(1000, 2000, payload), src=source, dst=str(SUBNET6[0xFFFF]))
    return ethernet(receiver.mac, sender.mac, 0x86DD, packet)


def discovery(
    sender: Guest, kind: int, target: str, *, source: str, dst: str = "ff02::1", hops: int = 255
) -> bytes:
    packet = ipv6(58, neighbour_discovery(kind, target), src=source, dst=dst, hops=hops)
    return ethernet(ALL_NODES, sender.mac, 0x86DD, packet)


def test_a_guest_chooses_its_addresses_in_the_prefix_and_on_the_link(alice: Guest, bob: Guest) -> None:
    for source in (fresh(), fresh(), "fe80::abcd"):
        for payload in (b"first", b"second"):
            assert arrives(alice, unicast(alice, bob, source, payload), bob)
        assert arrives(alice, discovery(alice, NA, source, source=source), bob)
        assert arrives(alice, discovery(alice, NS, GATEWAY6, source=source), bob)


def test_s5_eight_temporary_addresses_are_no_trouble(network: Lab, bob: Guest) -> None:
    carol = quiet(network)
    for source in [fresh() for _ in range(8)]:
        assert arrives(carol, discovery(carol, NS, source, source="::"), bob)
        assert arrives(carol, unicast(carol, bob, source), bob)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("2001:db8::66", "source IPv6 address is not in this network", id="elsewhere"),
        pytest.param("fd12:3456:789b::66", "source IPv6 address is not in this network", id="next-prefix"),
        pytest.param("::1", "source IPv6 address is not in this network", id="loopback"),
        pytest.param("::ffff:1.2.3.4", "source IPv6 address is not in this network", id="mapped"),
        pytest.param("ff02::1", "source IPv6 address is not in this network", id="multicast"),
        pytest.param("::", "source IPv6 address is not in this network", id="unspecified"),
        pytest.param(GATEWAY6, "source IPv6 address is the gateway's", id="gateway"),
        pytest.param("fe80::1", "source IPv6 address is the gateway's", id="router"),
        pytest.param(str(SUBNET6[0]), "source IPv6 address is the gateway's", id="anycast"),
    ],
)
def test_l5_a_source_that_cannot_be_a_guests_is_dropped(
    network: Lab, alice: Guest, bob: Guest, source: str, reason: str
) -> None:
    before = network.drops(reason)
    assert not arrives(alice, unicast(alice, bob, source), bob)
    assert network.drops(reason) == before + 1


def test_l5_an_address_is_the_guests_who_used_it_first(network: Lab, alice: Guest, bob: Guest) -> None:
    carol, address = quiet(network), fresh()
    assert arrives(alice, unicast(alice, bob, address), bob)
    before = network.drops("source IPv6 address is another guest's")
    assert not arrives(carol, unicast(carol, bob, address), bob)
    assert network.drops("source IPv6 address is another guest's") == before + 1
    assert arrives(alice, unicast(alice, bob, address, b"still mine"), bob)


@pytest.mark.parametrize(("src_port", "dst_port"), [(547, 546), (547, 1000), (1000, 546)])
def test_a_speaker_is_no_dhcpv6_server_all_the_same(
    network: Lab, alice: Guest, bob: Guest, src_port: int, dst_port: int
) -> None:
    source = fresh()
    assert arrives(alice, unicast(alice, bob, source), bob)
    before = network.drops("rogue DHCPv6 server")
    packet = ipv6(17, udp(src_port, dst_port), src=source, dst=str(SUBNET6[0xFFFF]))
    assert not arrives(alice, ethernet(bob.mac, alice.mac, 0x86DD, packet), bob)
    assert network.drops("rogue DHCPv6 server") == before + 1


@pytest.mark.parametrize("owner", ["alice", "gateway", "router"])
def test_l5_nobody_advertises_for_another(network: Lab, alice: Guest, bob: Guest, owner: str) -> None:
    carol = quiet(network)
    targets = {"alice": fresh(), "gateway": GATEWAY6, "router": "fe80::1"}
    assert arrives(alice, unicast(alice, bob, targets["alice"]), bob)
    own = fresh()
    assert arrives(carol, unicast(carol, bob, own), bob)
    before = network.drops("ND target")
    assert not arrives(carol, discovery(carol, NA, targets[owner], source=own), bob)
    assert network.drops("ND target") == before + 1


def test_l5_an_advertisement_of_an_own_address_from_a_foreign_source_is_dropped(
    network: Lab, alice: Guest, bob: Guest
) -> None:
    carol, mine, hers = quiet(network), fresh(), fresh()
    assert arrives(alice, unicast(alice, bob, mine), bob)
    assert not arrives(carol, discovery(carol, NA, hers, source=mine), bob)


def test_l5_who_probes_first_has_the_address_and_nobody_can_deny_it(
    network: Lab, alice: Guest, bob: Guest
) -> None:
    carol, wanted = quiet(network), fresh()
    assert arrives(alice, discovery(alice, NS, wanted, source="::"), bob)
    denial = discovery(carol, NA, wanted, source=wanted)
    assert not arrives(carol, denial, bob)
    assert arrives(alice, unicast(alice, bob, wanted), bob)


def test_l5_nobody_else_probes_for_an_address_whose_guest_is_not_sure_of_it_yet(
    network: Lab, alice: Guest, bob: Guest
) -> None:
    carol, address = quiet(network), fresh()
    assert arrives(alice, discovery(alice, NS, address, source="::"), bob)
    before = network.drops("probe for an address")
    assert not arrives(carol, discovery(carol, NS, address, source="::"), bob)
    assert network.drops("probe for an address") == before + 1
    assert arrives(alice, discovery(alice, NS, address, source="::"), bob)
    wait_until(lambda: arrives(carol, discovery(carol, NS, address, source="::"), bob))


def test_l5_a_probe_for_an_address_in_use_reaches_its_owner_who_may_answer(
    network: Lab, alice: Guest, bob: Guest
) -> None:
    carol, address = quiet(network), fresh()
    assert arrives(alice, unicast(alice, bob, address), bob)
    assert arrives(carol, discovery(carol, NS, address, source="::"), alice)
    assert arrives(alice, discovery(alice, NA, address, source=address), carol)
    assert not arrives(carol, unicast(carol, bob, address), bob)


def test_l5_a_probe_does_not_take_the_gateways_address(network: Lab, alice: Guest, bob: Guest) -> None:
    assert arrives(alice, discovery(alice, NS, GATEWAY6, source="::"), bob)
    assert not arrives(alice, unicast(alice, bob, GATEWAY6), bob)


@pytest.mark.parametrize("kind", [NS, NA, 133])
def test_l5_neighbour_discovery_from_beyond_the_link_is_dropped(
    network: Lab, alice: Guest, bob: Guest, kind: int
) -> None:
    source = fresh()
    before = network.drops("neighbour discovery from beyond the link")
    assert not arrives(alice, discovery(alice, kind, source, source=source, hops=254), bob)
    assert network.drops("neighbour discovery from beyond the link") == before + 1


def test_l10_groups_are_reported_without_an_address(alice: Guest, bob: Guest) -> None:
    report = ethernet("33:33:00:00:00:16", alice.mac, 0x86DD, ipv6(58, icmpv6(143, 24), src="::"))
    assert arrives(alice, report, bob)


def test_the_addresses_of_a_guest_that_left_are_free_and_others_are_not(
    network: Lab, alice: Guest, bob: Guest
) -> None:
    leaving, next_one, freed, kept = quiet(network), quiet(network), fresh(), fresh()
    assert arrives(leaving, unicast(leaving, bob, freed), bob)
    assert arrives(alice, unicast(alice, bob, kept), bob)
    assert not arrives(next_one, unicast(next_one, bob, freed), bob)
    network.host.call(lambda: network.firewall.remove_port(leaving.plan))
    assert arrives(next_one, unicast(next_one, bob, freed), bob)
    assert not arrives(next_one, unicast(next_one, bob, kept), bob)


def test_a_guest_takes_so_many_addresses_and_no_more(network: Lab, bob: Guest) -> None:
    greedy, honest = quiet(network), quiet(network)
    addresses = [fresh() for _ in range(CLAIMS_BURST_MAX)]
    lab.send(greedy, *(unicast(greedy, bob, address) for address in addresses))
    assert network.drops("too many new IPv6 addresses") == 0
    lab.send(greedy, *(unicast(greedy, bob, fresh()) for _ in range(CLAIMS_BURST_MAX)))
    wait_until(lambda: network.drops("too many new IPv6 addresses") > CLAIMS_BURST_MAX // 2)
    assert arrives(greedy, unicast(greedy, bob, addresses[0]), bob)
    assert arrives(honest, unicast(honest, bob, fresh()), bob)
