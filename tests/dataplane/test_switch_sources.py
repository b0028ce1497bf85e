"""What a guest may send: its own MAC, IPv4 addresses and ARP, and no DHCP as a server does (L1, L3, L4, L7)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane.port_binding import IPV4_MAX, PortBinding, bind_payload
from arcbox_net.errors import LimitReached
from tests.support.switch import (
    BROADCAST,
    GATEWAY,
    UPLINK,
    Segment,
    arp,
    dhcp,
    ether,
    ip_of,
    mac_of,
    tcp4,
)


@pytest.mark.parametrize(
    "source", [mac_of(1), "02:00:00:00:00:99", "00:00:00:00:00:00", BROADCAST, "03:00:00:00:00:10"]
)
def test_l1_another_source_mac_is_dropped(source: str) -> None:
    assert Segment().reason(0, Ether(src=source, dst=mac_of(1)) / tcp4(0, 1).payload) == "source_mac"


@pytest.mark.parametrize("source", ["00:00:00:00:00:00", BROADCAST, "03:00:00:00:00:10"])
def test_l1_no_port_sends_from_a_group_or_from_nobody(source: str) -> None:
    frame = Ether(src=source, dst=mac_of(1)) / tcp4(0, 1).payload
    assert Segment().reason(UPLINK, frame) == "source_mac"
    for ipv4 in (None, (IPv4Address(ip_of(0)),)):
        learning = PortBinding(mac=None, ipv4=ipv4)
        assert Segment(guests=[learning, learning]).reason(0, frame) == "source_mac"


@pytest.mark.parametrize("source", [ip_of(1), GATEWAY, "8.8.8.8", "0.0.0.0", "255.255.255.255"])
@pytest.mark.parametrize("protocol", [TCP(), UDP(sport=1024, dport=67)], ids=["tcp", "udp"])
def test_l4_another_source_address_is_dropped(source: str, protocol: Packet) -> None:
    frame = ether(0, 1) / IP(src=source, dst=ip_of(1)) / protocol
    assert Segment().reason(0, frame) == "source_ip"


def test_l4_every_address_of_the_binding_may_be_used_and_no_other() -> None:
    addresses = tuple(IPv4Address(f"192.168.64.{100 + i}") for i in range(IPV4_MAX))
    segment = Segment(guests=[PortBinding(mac=mac_of(0), ipv4=addresses), PortBinding(mac=mac_of(1))])
    for address in addresses:
        assert segment.reaches(0, ether(0, 1) / IP(src=str(address), dst=ip_of(1)) / TCP()) == {1}
    assert segment.reason(0, tcp4(0, 1)) == "source_ip"
    with pytest.raises(LimitReached):
        bind_payload(PortBinding(ipv4=(*addresses, IPv4Address("192.168.64.99"))))


def test_any_address_may_be_used_where_others_assign_them() -> None:
    segment = Segment(guests=[PortBinding(mac=mac_of(0), ipv4=None), PortBinding(mac=mac_of(1))])
    assert segment.reaches(0, ether(0, 1) / IP(src="8.8.8.8", dst=ip_of(1)) / TCP()) == {1}
    assert segment.reaches(0, arp(0, ip_of(1), psrc="8.8.8.8")) == {1, UPLINK}


def test_l4_dhcp_from_no_address_is_a_clients_only() -> None:
    segment = Segment()
    assert segment.reaches(0, dhcp(0, "discover")) == {1, 2, UPLINK}
    assert segment.reason(0, dhcp(0, "discover", dport=69)) == "source_ip"
    assert segment.reason(0, dhcp(0, "discover", sport=1024)) == "source_ip"
    assert segment.reason(0, dhcp(0, "discover", dst=ip_of(1))) == "source_ip"


@pytest.mark.parametrize("source", ["0.0.0.0", ip_of(0), GATEWAY])
def test_a_guest_that_plays_dhcp_server_is_dropped(source: str) -> None:
    frame = dhcp(0, "offer", sport=67, dport=68, src=source)
    assert Segment().reason(0, frame) == "dhcp"
    unicast = ether(0, 1) / IP(src=source, dst=ip_of(1), options=[b"\x01"]) / UDP(sport=67, dport=68)
    assert Segment().reason(0, unicast) == "dhcp"


@pytest.mark.parametrize("destination", [1, BROADCAST])
def test_d19_an_answer_to_dhcp_clients_is_dropped_whatever_port_it_comes_from(destination: int | str) -> None:
    frame = (
        ether(0, destination) / IP(src=ip_of(0), dst=ip_of(1)) / UDP(sport=1067, dport=68) / Raw(bytes(300))
    )
    assert Segment().reason(0, frame) == "dhcp"


def test_the_uplink_may_offer_leases() -> None:
    frame = (
        Ether(src="02:00:00:00:00:fe", dst=BROADCAST)
        / dhcp(0, "offer", sport=67, dport=68, src=GATEWAY).payload
    )
    assert Segment().reaches(UPLINK, frame) == {0, 1, 2}


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(ether(0, 1, type=0x0800) / Raw(b"\x45" + bytes(18)), id="no header"),
        pytest.param(ether(0, 1, type=0x0800) / Raw(b"\x44" + bytes(45)), id="ihl below five"),
        pytest.param(ether(0, 1, type=0x0800) / Raw(b"\x4f" + bytes(20)), id="options outside"),
        pytest.param(ether(0, 1, type=0x0800) / Raw(b"\x65" + bytes(45)), id="version"),
        pytest.param(
            ether(0, 1) / IP(src=ip_of(0), dst=ip_of(1), proto=17) / Raw(b"\0" * 3), id="no udp ports"
        ),
    ],
)
def test_what_cannot_be_read_is_dropped(cut: Packet) -> None:
    assert Segment().reason(0, cut) == "short"


def test_a_later_fragment_has_no_ports() -> None:
    frame = ether(0, 1) / IP(src=ip_of(0), dst=ip_of(1), proto=17, frag=1) / Raw(b"\0\x43\0\x44")
    assert Segment().reaches(0, frame) == {1}


@pytest.mark.parametrize("op", ["who-has", "is-at"])
def test_arp_about_oneself_passes(op: str) -> None:
    assert Segment().reaches(0, arp(0, ip_of(1), op=op)) == {1, 2, UPLINK}


def test_l3_an_address_may_be_probed_but_not_denied_without_one() -> None:
    segment = Segment()
    assert segment.reaches(0, arp(0, ip_of(0), psrc="0.0.0.0")) == {1, 2, UPLINK}
    assert segment.reason(0, arp(0, ip_of(0), psrc="0.0.0.0", op="is-at")) == "arp"


def test_l3_a_probe_for_anothers_address_is_dropped() -> (
    None
):  # RFC 5227: whoever probes it too would give it up
    assert Segment().reason(0, arp(0, ip_of(1), psrc="0.0.0.0")) == "arp"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"psrc": ip_of(1)}, id="a neighbour's address"),
        pytest.param({"psrc": GATEWAY, "pdst": GATEWAY}, id="gratuitous for the gateway"),
        pytest.param({"psrc": GATEWAY, "op": 2}, id="the gateway's answer"),
        pytest.param({"hwsrc": mac_of(1)}, id="another MAC inside"),
        pytest.param({"op": 0}, id="operation 0"),
        pytest.param({"op": 3}, id="operation 3"),
        pytest.param({"hwlen": 8}, id="hlen"),
        pytest.param({"plen": 16}, id="plen"),
        pytest.param({"hwtype": 6}, id="hardware"),
        pytest.param({"ptype": 0x86DD}, id="protocol"),
    ],
)
def test_l3_arp_that_is_not_about_oneself_is_dropped(fields: dict[str, object]) -> None:
    assert Segment().reason(0, arp(0, ip_of(1), **fields)) == "arp"


def test_l3_arp_that_is_cut_off_is_dropped() -> None:
    assert Segment().reason(0, bytes(ether(0, BROADCAST) / ARP(psrc=ip_of(0), hwsrc=mac_of(0)))[:41]) == "arp"


def test_l7_a_port_without_a_mac_has_eight_learned_ones() -> None:
    learning = PortBinding(mac=None, ipv4=None)
    segment = Segment(guests=[learning, learning])
    for i in range(8):
        assert segment.reaches(0, Ether(src=mac_of(i), dst=mac_of(0x40)) / tcp4(0, 1).payload) == {1, UPLINK}
    assert segment.reason(0, Ether(src=mac_of(8), dst=mac_of(1)) / tcp4(0, 1).payload) == "source_mac"
    assert segment.reason(1, Ether(src=mac_of(0), dst=mac_of(1)) / tcp4(0, 1).payload) == "source_mac"
    assert segment.reaches(1, Ether(src=mac_of(9), dst=mac_of(3)) / tcp4(0, 1).payload) == {0}


def test_l7_a_thousand_broadcasts_a_second_and_no_more() -> None:
    segment = Segment()
    frame = bytes(12) + bytes(arp(0, ip_of(1)))
    passed = 0
    for _ in range(17):
        passed += len(segment.lab.rx(0, [frame] * 60).get(1, []))
    assert passed == 1000
    assert segment.lab.drops(0) == {"storm": 20}
    segment.lab.now_ns += 1_000_000
    assert segment.reaches(0, arp(0, ip_of(1))) == {1, 2, UPLINK}
    assert segment.reason(0, arp(0, ip_of(1))) == "storm"
    assert segment.reaches(0, tcp4(0, 1)) == {1}
    assert segment.reaches(1, arp(1, ip_of(0))) == {0, 2, UPLINK}


def test_l10_groups_that_are_reported_fill_no_table_and_go_to_all() -> None:
    segment = Segment()
    known = {entry.mac for entry in segment.switch.fdb(segment.lab, 0)}
    for i in range(200):
        group = f"239.1.1.{i}"
        report = IP(src=ip_of(0), dst=group, ttl=1, proto=2) / Raw(b"\x16\0\0\0" + IPv4Address(group).packed)
        assert segment.reaches(0, ether(0, f"01:00:5e:01:01:{i:02x}") / report) == {1, 2, UPLINK}
    assert {entry.mac for entry in segment.switch.fdb(segment.lab, 0)} == known
    unreported = ether(1, "01:00:5e:02:02:02") / IP(src=ip_of(1), dst="239.2.2.2") / UDP()
    assert segment.reaches(1, unreported) == {0, 2, UPLINK}


def test_l7_a_super_frame_to_a_group_is_dropped() -> None:  # one of them would be hundreds of broadcasts
    segment = Segment()
    frame = ether(0, BROADCAST) / IP(src=ip_of(0), dst="192.168.64.255") / TCP() / Raw(bytes(4000))
    offload = struct.pack("=BBHHHHH", 1, 1, 54, 1000, 34, 16, 0)
    assert segment.send(0, frame, offload=offload) == {}
    assert segment.lab.drops(0) == {"storm": 1}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(337),
        bytes(334),
        pytest.param(b"\x03" + bytes(5) + b"\x01\0" + bytes(328), id="group mac"),
        pytest.param(bytes(6) + b"\x00" + bytes(329), id="no role"),
        pytest.param(bytes(6) + b"\x06" + bytes(329), id="unknown role"),
        pytest.param(bytes(6) + b"\x01\0\x11\0\0\0" + bytes(324), id="ipv4 count"),
        pytest.param(bytes(6) + b"\x01\0\0\0\0\0\x11\0\0\0" + bytes(320), id="ipv6 count"),
    ],
)
def test_a_binding_that_lies_is_refused(payload: bytes) -> None:
    segment = Segment()
    with pytest.raises(OSError):
        segment.lab.send(0, 100, payload)
    assert segment.reaches(0, tcp4(0, 1)) == {1}
