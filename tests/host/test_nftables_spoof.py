"""What a guest may send: spoofed frames, servers and control frames it must not speak, on a real bridge."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.host import firewall_lab as lab
from tests.host.firewall_lab import BROADCAST, Guest, Lab, arp, arrives, ethernet, icmpv6, ipv4, ipv6, udp
from tests.support.netns import Host, wait_until

pytestmark = pytest.mark.e2e
OTHER_MAC = "02:00:00:00:00:99"


@pytest.fixture(scope="module")
def network() -> Iterator[Lab]:
    with Host(world=False) as host:
        yield Lab(host)


@pytest.fixture(scope="module")
def alice(network: Lab) -> Guest:
    return network.guest()


@pytest.fixture(scope="module")
def bob(network: Lab) -> Guest:
    return network.guest()


def test_honest_frames_arrive(alice: Guest, bob: Guest) -> None:
    packet = ipv4(alice.ip, bob.ip, 17, udp(1000, 2000, b"hello"))
    assert arrives(alice, ethernet(bob.mac, alice.mac, 0x0800, packet), bob)
    assert arrives(
        alice, ethernet(BROADCAST, alice.mac, 0x0800, ipv4(alice.ip, "255.255.255.255", 17, udp(1, 2))), bob
    )
    assert arrives(alice, ethernet(BROADCAST, alice.mac, 0x0806, arp(1, alice.mac, alice.ip, bob.ip)), bob)
    assert arrives(alice, ethernet(BROADCAST, alice.mac, 0x0806, arp(1, alice.mac, "0.0.0.0", alice.ip)), bob)
    assert arrives(alice, ethernet("33:33:00:00:00:01", alice.mac, 0x86DD, ipv6(58, icmpv6(135, 20))), bob)


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(OTHER_MAC, id="unknown"),
        pytest.param("bob", id="neighbour's"),
        pytest.param(BROADCAST, id="broadcast"),
        pytest.param("01:00:5e:00:00:01", id="multicast"),
        pytest.param("00:00:00:00:00:00", id="zero"),
    ],
)
@pytest.mark.parametrize("kind", [0x0800, 0x0806, 0x86DD], ids=["ipv4", "arp", "ipv6"])
def test_l1_foreign_source_mac_is_dropped(alice: Guest, bob: Guest, source: str, kind: int) -> None:
    source = bob.mac if source == "bob" else source
    payload = {
        0x0800: ipv4(alice.ip, bob.ip, 17, udp(1, 2)),
        0x0806: arp(1, alice.mac, alice.ip, bob.ip),
        0x86DD: ipv6(17, udp(1, 2)),
    }[kind]
    assert not arrives(alice, ethernet(bob.mac, source, kind, payload), bob)


@pytest.mark.parametrize("source", ["192.168.64.1", "192.168.64.200", "8.8.8.8", "127.0.0.1", "0.0.0.0"])
def test_l4_foreign_source_ipv4_is_dropped_and_counted(
    network: Lab, alice: Guest, bob: Guest, source: str
) -> None:
    before = network.drops("source IPv4 address")
    frame = ethernet(bob.mac, alice.mac, 0x0800, ipv4(source, bob.ip, 17, udp(1, 2)))
    assert not arrives(alice, frame, bob)
    assert network.drops("source IPv4 address") == before + 1


def test_l4_no_address_may_be_used_for_dhcp_only(alice: Guest, bob: Guest) -> None:
    discover = ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67, b"\1" * 240))
    assert arrives(alice, ethernet(BROADCAST, alice.mac, 0x0800, discover), bob)
    other = ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 69))
    assert not arrives(alice, ethernet(BROADCAST, alice.mac, 0x0800, other), bob)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(lambda a, b: arp(2, a.mac, "192.168.64.1", b.ip), id="gateway-reply"),
        pytest.param(lambda a, b: arp(1, a.mac, "192.168.64.1", "192.168.64.1"), id="gateway-gratuitous"),
        pytest.param(lambda a, b: arp(2, a.mac, b.ip, a.ip), id="neighbour-reply"),
        pytest.param(lambda a, b: arp(2, OTHER_MAC, a.ip, b.ip), id="sender-mac"),
        pytest.param(lambda a, b: arp(2, a.mac, "0.0.0.0", b.ip), id="reply-from-nobody"),
        pytest.param(lambda a, b: arp(1, a.mac, "0.0.0.0", b.ip), id="probe-of-neighbour's"),
        pytest.param(lambda a, b: arp(3, a.mac, a.ip, b.ip), id="reverse-arp"),
        pytest.param(
            lambda a, b: arp(1, a.mac, a.ip, b.ip, head=struct.pack("!HHBBH", 6, 0x0800, 6, 4, 1)), id="htype"
        ),
        pytest.param(
            lambda a, b: arp(1, a.mac, a.ip, b.ip, head=struct.pack("!HHBBH", 1, 0x86DD, 6, 4, 1)), id="ptype"
        ),
        pytest.param(
            lambda a, b: arp(1, a.mac, a.ip, b.ip, head=struct.pack("!HHBBH", 1, 0x0800, 8, 4, 1)), id="hlen"
        ),
        pytest.param(
            lambda a, b: arp(1, a.mac, a.ip, b.ip, head=struct.pack("!HHBBH", 1, 0x0800, 6, 16, 1)), id="plen"
        ),
    ],
)
def test_l3_false_arp_is_dropped(alice: Guest, bob: Guest, payload) -> None:  # type: ignore[no-untyped-def]
    assert not arrives(alice, ethernet(BROADCAST, alice.mac, 0x0806, payload(alice, bob)), bob)


@pytest.mark.parametrize(("src_port", "dst_port"), [(67, 68), (67, 1000), (1000, 68)])
@pytest.mark.parametrize("unicast", [False, True], ids=["broadcast", "unicast"])
def test_rogue_dhcp_server_is_dropped(
    network: Lab, alice: Guest, bob: Guest, src_port: int, dst_port: int, unicast: bool
) -> None:
    before = network.drops("rogue DHCP server")
    dst_mac, dst_ip = (bob.mac, bob.ip) if unicast else (BROADCAST, "255.255.255.255")
    offer = ipv4(alice.ip, dst_ip, 17, udp(src_port, dst_port, b"\2" * 240))
    assert not arrives(alice, ethernet(dst_mac, alice.mac, 0x0800, offer), bob)
    assert network.drops("rogue DHCP server") == before + 1


FRAGMENT = struct.pack("!BBHL", 58, 0, 1, 7)  # next header ICMPv6, offset 0, more to come


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv6(58, icmpv6(134)), id="router-advertisement"),
        pytest.param(ipv6(58, icmpv6(137, 40)), id="redirect"),
        pytest.param(ipv6(60, struct.pack("!BB6x", 58, 0) + icmpv6(134)), id="behind-destination-options"),
        pytest.param(ipv6(0, struct.pack("!BB6x", 58, 0) + icmpv6(134)), id="behind-hop-by-hop"),
        pytest.param(ipv6(44, FRAGMENT + icmpv6(134)), id="fragmented"),
        pytest.param(
            ipv6(44, struct.pack("!BBHL", 60, 0, 1, 7) + struct.pack("!BB6x", 58, 0)), id="in-2nd-fragment"
        ),
        pytest.param(ipv6(17, udp(547, 1000)), id="dhcpv6-server"),
        pytest.param(ipv6(17, udp(1000, 546)), id="to-dhcpv6-client"),
    ],
)
def test_l5_rogue_ipv6_router_is_dropped(alice: Guest, bob: Guest, packet: bytes) -> None:
    assert not arrives(alice, ethernet("33:33:00:00:00:01", alice.mac, 0x86DD, packet), bob)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda a, b: _tagged(a, b, 0x8100), id="vlan"),
        pytest.param(lambda a, b: _tagged(a, b, 0x88A8), id="qinq"),
        pytest.param(
            lambda a, b: ethernet("01:80:c2:00:00:0e", a.mac, 0x88CC, b"\2\7\4" + b"\0" * 40), id="lldp"
        ),
        pytest.param(
            lambda a, b: ethernet(BROADCAST, a.mac, 0x88CC, b"\2\7\4" + b"\0" * 40), id="lldp-broadcast"
        ),
        pytest.param(
            lambda a, b: ethernet("01:80:c2:00:00:00", a.mac, 38, b"\x42\x42\3" + b"\0" * 35), id="stp"
        ),
        pytest.param(
            lambda a, b: ethernet("01:00:0c:cc:cc:cd", a.mac, 50, b"\xaa\xaa\3" + b"\0" * 47), id="pvst"
        ),
        pytest.param(lambda a, b: ethernet("01:80:c2:00:00:01", a.mac, 0x8808, b"\0\1\xff\xff"), id="pause"),
        pytest.param(lambda a, b: ethernet(b.mac, a.mac, 0x8863, b"\0" * 40), id="pppoe"),
    ],
)
def test_l6_frames_that_are_not_ip_or_arp_are_dropped(alice: Guest, bob: Guest, frame) -> None:  # type: ignore[no-untyped-def]
    assert not arrives(alice, frame(alice, bob), bob)


def test_l7_broadcast_storm_is_limited(network: Lab, bob: Guest) -> None:
    carol = network.guest()
    frame = ethernet(BROADCAST, carol.mac, 0x0806, arp(1, carol.mac, carol.ip, bob.ip))
    lab.send(carol, *[frame] * 3000)
    wait_until(lambda: network.drops("broadcast storm") > 0)
    unicast = ethernet(bob.mac, carol.mac, 0x0800, ipv4(carol.ip, bob.ip, 17, udp(1, 2)))
    assert arrives(carol, unicast, bob)


def test_removed_port_is_silenced_and_others_are_not(network: Lab, alice: Guest, bob: Guest) -> None:
    carol = network.guest()
    frame = ethernet(bob.mac, carol.mac, 0x0800, ipv4(carol.ip, bob.ip, 17, udp(1, 2)))
    assert arrives(carol, frame, bob)
    network.host.call(lambda: network.firewall.remove_port(carol.plan))
    before = network.drops("source MAC")
    lab.send(carol, frame)
    wait_until(lambda: network.drops("source MAC") > before)
    assert arrives(alice, ethernet(bob.mac, alice.mac, 0x0800, ipv4(alice.ip, bob.ip, 17, udp(1, 2))), bob)


def test_unfiltered_port_may_send_anything(network: Lab, bob: Guest) -> None:
    dave = network.guest(anti_spoof=False)
    spoofed = ethernet(bob.mac, OTHER_MAC, 0x0800, ipv4("8.8.8.8", bob.ip, 17, udp(67, 68)))
    assert arrives(dave, spoofed, bob)


def _tagged(sender: Guest, receiver: Guest, kind: int) -> bytes:
    packet = ipv4(sender.ip, receiver.ip, 17, udp(1, 2))
    return ethernet(receiver.mac, sender.mac, kind, struct.pack("!HH", 7, 0x0800) + packet)
