"""Guests' packets out through the NAT engine and back, MAC addresses that are asked for, and packets that wait."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane._testing_switch import Lab
from arcbox_net.dataplane.engine import NatEngine
from arcbox_net.dataplane.nat_config import NatEngineConfig
from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from arcbox_net.dataplane.router import Router
from arcbox_net.dataplane.router_config import RouterConfig, Told, Way
from arcbox_net.dataplane.switch import Switch
from arcbox_net.memory.pool import PacketPool
from tests.support.switch import (
    BROADCAST,
    GATEWAY,
    GATEWAY_MAC,
    GATEWAYS6,
    NO_OFFLOAD,
    SUBNET6,
    guest,
    ip6_of,
    ip_of,
    mac_of,
    udp6,
)

LEG, BRIDGE, ROUTER, UPLINK = 2, 3, 4, 5
LEG_MAC = "02:00:00:00:02:00"
UPLINK_MAC, NEXT_HOP_MAC, HOST_MAC = "02:00:00:00:01:00", "02:00:00:00:01:01", "02:00:00:00:01:02"
EXTERNAL, NEXT_HOP, HOST, SERVER = "203.0.113.5", "203.0.113.1", "203.0.113.9", "198.51.100.1"
EXTERNAL6, NEXT_HOP6, SERVER6 = "2001:db8:1::5", "2001:db8:1::1", "2001:db8:2::1"


TICKS_OF_JOINING = 35
LISTENED = ["ff02::1:ff00:100", "ff02::1:ff00:5"]  # for the uplink's link-local address and the external one
SHARERS_MAX = 256 + 1024  # ports, and what a bridge has of them
METADATA = ("169.254.169.254", "100.100.100.200", "168.63.129.16")  # which the host drops


class Site:
    """Guests on ports 0 and 1, the network's bridge on 3, a router on 4 whose uplink is 5, and whose leg is 2."""

    def __init__(self, pool: PacketPool) -> None:
        self.pool = pool
        self.engine = NatEngine(
            NatEngineConfig(EXTERNAL, external_ip6=EXTERNAL6, inside6=str(SUBNET6), gateway=GATEWAY)
        )
        self.router = Router(self.engine)
        switch = Switch()
        self.lab = Lab(switch, 6, pool=pool, frame_max=1514)
        self.lab.place(ROUTER, self.router)
        self.lab.set_sink(UPLINK, self.router.outside)
        self.lab.set_sink(LEG, self.router.inside)
        for number in (0, 1):
            switch.bind(self.lab, number, guest(number))
        switch.bind(self.lab, BRIDGE, PortBinding("uplink", mac=GATEWAY_MAC))
        switch.bind(self.lab, ROUTER, PortBinding("router"))
        switch.set_network(
            self.lab,
            0,
            SwitchNetwork(SUBNET6, GATEWAYS6, ROUTER, GATEWAY_MAC, IPv4Network("192.168.64.0/24")),
        )
        self.set_up(f"{EXTERNAL}/24")
        self.lab.tick(TICKS_OF_JOINING)
        self.joining = [Ether(one[len(NO_OFFLOAD) :]) for one in self.lab.take()[UPLINK]]

    def set_up(self, external: str) -> None:
        self.router.set_up(
            self.lab,
            ROUTER,
            RouterConfig(
                UPLINK,
                UPLINK_MAC,
                GATEWAY_MAC,
                (IPv4Interface(external), IPv6Interface(f"{EXTERNAL6}/64")),
                IPv4Address(NEXT_HOP),
                ip_address(NEXT_HOP6),
                IPv4Address(GATEWAY),
                GATEWAYS6,
                LEG,
                LEG_MAC,
            ),
        )

    def rx(
        self, number: int, *frames: Packet | bytes, offload: bytes = NO_OFFLOAD
    ) -> dict[int, list[Packet]]:
        found = self.lab.rx(number, [offload + bytes(frame) for frame in frames])
        return {port: [Ether(one[len(NO_OFFLOAD) :]) for one in given] for port, given in found.items()}

    def resolved(self) -> Site:
        self.router.set_neighbour(self.lab, ROUTER, NEXT_HOP, NEXT_HOP_MAC)
        self.router.set_neighbour(self.lab, ROUTER, NEXT_HOP6, NEXT_HOP_MAC)
        return self


@pytest.fixture
def site() -> Iterator[Site]:
    with PacketPool(256, 8) as pool:
        site = Site(pool)
        yield site
        site.lab.close()


def to_gateway(source: int, payload: Packet, *, dst: str = SERVER) -> Packet:
    return Ether(src=mac_of(source), dst=GATEWAY_MAC) / IP(src=ip_of(source), dst=dst) / payload


def udp_out(source: int = 0, *, dst: str = SERVER, size: int = 8) -> Packet:
    return to_gateway(source, UDP(sport=5000, dport=53) / Raw(bytes(size)), dst=dst)


def by_bridge(source: int, payload: Packet, *, dst: str = SERVER) -> Packet:
    """What a guest with a device of the kernel sent to the gateway, as the bridge leads it to the router."""
    frame = to_gateway(source, payload, dst=dst)
    frame.dst = LEG_MAC
    return frame


def answer_to(sent: Packet, payload: bytes = b"answer") -> Packet:
    """What the server says to a datagram that left by the uplink."""
    return (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC)
        / IP(src=sent[IP].dst, dst=sent[IP].src)
        / UDP(sport=sent[UDP].dport, dport=sent[UDP].sport)
        / Raw(payload)
    )


def arp_reply(ip: str, mac: str) -> Packet:
    return Ether(src=mac, dst=UPLINK_MAC) / ARP(op=2, hwsrc=mac, psrc=ip, hwdst=UPLINK_MAC, pdst=EXTERNAL)


def test_a_datagram_goes_out_and_its_answer_comes_back(site: Site) -> None:
    site.resolved()
    (sent,) = site.rx(0, udp_out())[UPLINK]
    assert (sent.src, sent.dst) == (UPLINK_MAC, NEXT_HOP_MAC)
    assert (sent[IP].src, sent[IP].dst, sent[IP].ttl) == (EXTERNAL, SERVER, 63)
    (came,) = site.rx(UPLINK, answer_to(sent))[0]
    assert (came.src, came.dst) == (GATEWAY_MAC, mac_of(0))
    assert (came[IP].src, came[IP].dst, came[UDP].dport) == (SERVER, ip_of(0), 5000)


def test_ipv6_goes_out_and_comes_back(site: Site) -> None:
    site.resolved()
    frame = udp6(0, 1)
    frame.dst, frame[IPv6].dst = GATEWAY_MAC, SERVER6
    (sent,) = site.rx(0, frame)[UPLINK]
    assert (sent.dst, sent[IPv6].src, sent[IPv6].dst) == (NEXT_HOP_MAC, EXTERNAL6, SERVER6)
    back = (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC)
        / IPv6(src=SERVER6, dst=EXTERNAL6)
        / UDP(sport=53, dport=sent[UDP].sport)
    )
    (came,) = site.rx(UPLINK, back)[0]
    assert (came.dst, came[IPv6].dst) == (mac_of(0), ip6_of(0))


@pytest.mark.parametrize(
    "dst", [GATEWAY, "192.168.64.200", "192.168.64.255", "224.0.0.5", "255.255.255.255", *METADATA]
)
def test_what_does_not_leave_the_subnet_is_the_bridges(site: Site, dst: str) -> None:
    assert set(site.resolved().rx(0, udp_out(dst=dst))) == {BRIDGE}


@pytest.mark.parametrize(
    "dst",
    [
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "fd00:c1::a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fec0::1",
        "::203.0.113.1",
        ip6_of(1),
    ],
)
def test_what_ipv6_does_not_leave_the_subnet_is_the_bridges(site: Site, dst: str) -> None:
    frame = Ether(src=mac_of(0), dst=GATEWAY_MAC) / IPv6(src=ip6_of(0), dst=dst) / UDP()
    assert set(site.resolved().rx(0, frame)) == {BRIDGE}


def test_a_large_frame_goes_out_in_one_piece(site: Site) -> None:
    (sent,) = site.resolved().rx(0, udp_out(size=1400))[UPLINK]
    assert bytes(sent[UDP].payload) == bytes(1400)
    assert site.pool.stats()["small"]["held"] == 0


def test_without_buffers_a_frame_in_pieces_is_dropped_and_counted() -> None:
    with PacketPool(1, 1) as pool:
        site = Site(pool).resolved()
        found = site.rx(0, udp_out(size=1400), udp_out(size=1401), udp_out(size=1402))
        assert [len(sent[UDP].payload) for sent in found[UPLINK]] == [1400]
        assert site.lab.drops(0) == {"pool": 2}
        assert len(site.rx(0, udp_out(size=1403))[UPLINK]) == 1
        site.lab.close()


def test_what_the_engine_refuses_counts_against_its_port(site: Site) -> None:
    frame = to_gateway(0, UDP(sport=1, dport=2, chksum=1) / Raw(b"x"))
    frame[IP].ttl = 0
    site.resolved().rx(0, frame)
    assert site.lab.drops(0) == {"egress": 1}


def test_the_sender_of_what_cannot_go_on_is_told(site: Site) -> None:
    frame = to_gateway(0, UDP(sport=1, dport=2) / Raw(b"x"))
    frame[IP].ttl = 1
    (told,) = site.resolved().rx(0, frame)[0]
    assert (told.src, told[IP].src, told[ICMP].type) == (GATEWAY_MAC, GATEWAY, 11)


def test_a_guest_reaches_another_by_the_external_address(site: Site) -> None:
    site.resolved()
    forward = site.engine.add_forward("udp", 7000, ip_of(1), 7001)
    site.rx(1, udp_out(1))  # the router learns its MAC
    (came,) = site.rx(0, to_gateway(0, UDP(sport=9, dport=forward.external_port), dst=EXTERNAL))[1]
    assert (came.src, came.dst, came[IP].dst, came[UDP].dport) == (GATEWAY_MAC, mac_of(1), ip_of(1), 7001)


def test_the_next_hop_is_asked_for_and_what_waits_is_sent(site: Site) -> None:
    frames = [udp_out(size=i) for i in range(3)]
    (asked,) = site.rx(0, *frames)[UPLINK]
    assert (asked.dst, asked[ARP].op, asked[ARP].psrc, asked[ARP].pdst) == (BROADCAST, 1, EXTERNAL, NEXT_HOP)
    sent = site.rx(UPLINK, arp_reply(NEXT_HOP, NEXT_HOP_MAC))[UPLINK]
    assert sorted(len(one[IP]) for one in sent) == sorted(len(one[IP]) for one in frames)
    assert {one.dst for one in sent} == {NEXT_HOP_MAC}
    assert site.pool.stats()["small"]["held"] == 0


def test_a_host_on_the_link_is_asked_for_itself(site: Site) -> None:
    (asked,) = site.rx(0, udp_out(dst=HOST))[UPLINK]
    assert asked[ARP].pdst == HOST
    (sent,) = site.rx(UPLINK, arp_reply(HOST, HOST_MAC))[UPLINK]
    assert sent.dst == HOST_MAC


def test_eight_frames_wait_for_a_neighbour_and_no_more(site: Site) -> None:
    site.rx(0, *[udp_out(size=i) for i in range(9)])
    assert site.router.unresolved == (1, 0)
    assert len(site.rx(UPLINK, arp_reply(NEXT_HOP, NEXT_HOP_MAC))[UPLINK]) == 8


def test_half_of_sixty_four_frames_that_wait_are_one_guests_and_of_the_rest_half_anothers(site: Site) -> None:
    for i in range(10, 14):
        site.rx(0, *[udp_out(dst=f"203.0.113.{i}", size=n) for n in range(8)])
    assert site.lab.drops(0) == {}
    site.rx(0, udp_out(dst="203.0.113.14"))
    assert site.lab.drops(0) == {"waiting": 1}
    for i in range(20, 22):
        site.rx(1, *[udp_out(1, dst=f"203.0.113.{i}", size=n) for n in range(8)])
    assert site.lab.drops(1) == {}
    site.rx(1, udp_out(1, dst="203.0.113.22"))
    assert site.lab.drops(1) == {"waiting": 1}
    assert site.router.unresolved == (2, 0)
    site.rx(UPLINK, arp_reply("203.0.113.10", HOST_MAC))
    site.rx(1, udp_out(1, dst="203.0.113.22"))
    assert site.lab.drops(1) == {"waiting": 1}


def scanned(site: Site, source: int, network: int, count: int) -> list[str]:
    """Which of the first *count* hosts of a prefix are asked for when a guest sends to each of them."""
    hosts = [f"203.0.{network + i // 256}.{i % 256}" for i in range(1, count + 1)]
    asked = []
    for i in range(0, count, 32):
        found = site.rx(source, *[udp_out(source, dst=host) for host in hosts[i : i + 32]])
        asked += [one[ARP].pdst for one in found.get(UPLINK, ())]
    assert asked == hosts[: len(asked)]
    return asked


def test_a_guest_that_scans_the_link_leaves_places_for_others_and_for_the_next_hop(site: Site) -> None:
    site.set_up(f"{EXTERNAL}/16")
    assert len(scanned(site, 0, 200, 513)) == 512
    assert len(scanned(site, 1, 220, 257)) == 256
    assert [one[ARP].pdst for one in site.rx(0, udp_out())[UPLINK]] == [NEXT_HOP]
    site.lab.tick(80)  # nobody answered
    site.lab.take()
    assert len(scanned(site, 0, 200, 1)) == 1


def test_what_waits_for_a_guest_is_sent_when_it_is_heard_by_a_packet_of_its_own(site: Site) -> None:
    site.resolved().engine.add_forward("udp", 5353, ip_of(1))
    asks = (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC) / IP(src=SERVER, dst=EXTERNAL) / UDP(sport=4000, dport=5353)
    )
    site.rx(UPLINK, asks)
    found = site.rx(1, udp_out(1))
    assert [one[UDP].dport for one in found[1]] == [5353]
    assert site.pool.stats()["small"]["held"] == 0


def test_who_does_not_answer_is_asked_three_times_a_second_apart(site: Site) -> None:
    site.rx(0, udp_out())
    asked = []
    for _ in range(80):
        site.lab.tick()
        asked.append(len(site.lab.take().get(UPLINK, ())))
    assert sum(asked) == 2
    assert site.router.unresolved == (1, 0)
    assert site.pool.stats()["small"]["held"] == 0
    assert len(site.rx(0, udp_out())[UPLINK]) == 1  # asks again


def to_server6(source: int) -> Packet:
    return Ether(src=mac_of(source), dst=GATEWAY_MAC) / IPv6(src=ip6_of(source), dst=SERVER6) / UDP(sport=1)


def refused(answer: Packet) -> tuple[str, int, int, str]:
    """Who tells it, type and code, and whom the quoted packet was for."""
    if IPv6 in answer:
        quoted = answer[ICMPv6DestUnreach].payload
        return answer[IPv6].src, 1, answer[ICMPv6DestUnreach].code, quoted.dst
    return answer[IP].src, answer[ICMP].type, answer[ICMP].code, answer[ICMP].payload.dst


def reported(frame: Packet) -> tuple[list[tuple[int, str]], int]:
    """Type and group of each record of a report, whose checksum holds, and its hop limit."""
    assert (frame.src, frame.dst) == (UPLINK_MAC, "33:33:00:00:00:16")
    assert (frame[IPv6].src, frame[IPv6].dst) == ("fe80::ff:fe00:100", "ff02::16")
    assert isinstance(frame[IPv6ExtHdrHopByHop].options[0], RouterAlert)
    fresh = Ether(bytes(frame))
    del fresh[ICMPv6MLReport2].cksum
    assert bytes(fresh) == bytes(frame)
    body = bytes(frame)[14 + 40 + 8 :]
    assert int.from_bytes(body[6:8], "big") == 2 and len(body) == 8 + 2 * 20
    records = [body[8:28], body[28:48]]  # without sources
    return [(one[0], str(ip_address(one[4:]))) for one in records], frame[IPv6].hlim


def test_the_groups_of_its_ipv6_addresses_are_joined_three_times_a_second_apart(site: Site) -> None:
    assert [reported(one) for one in site.joining] == [([(4, group) for group in LISTENED], 1)] * 3


def query(source: str = "fe80::9", *, hlim: int = 1) -> Packet:
    return (
        Ether(src=HOST_MAC, dst="33:33:00:00:00:01")
        / IPv6(src=source, dst="ff02::1", hlim=hlim)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6MLQuery2()
    )


def test_a_querier_is_told_the_groups_once_a_second_at_most(site: Site) -> None:
    assert site.rx(UPLINK, *[query()] * 20) == {}
    told = []
    for _ in range(30):
        site.rx(UPLINK, query())
        site.lab.tick()
        told += [Ether(one[len(NO_OFFLOAD) :]) for one in site.lab.take().get(UPLINK, ())]
    assert 3 <= len(told) <= 4
    assert {str(reported(one)) for one in told} == {str(([(2, group) for group in LISTENED], 1))}
    site.lab.tick(20)
    site.lab.take()
    site.lab.tick(50)
    assert site.lab.take() == {}


@pytest.mark.parametrize("wrong", [{"source": "2001:db8:1::9"}, {"hlim": 2}, {"cksum": 1}, {"size": 23}])
def test_what_no_querier_says_is_not_answered(site: Site, wrong: dict[str, Any]) -> None:
    cksum, size = wrong.pop("cksum", None), wrong.pop("size", None)
    asks = query(**wrong)
    if cksum is not None:
        asks[ICMPv6MLQuery2].cksum = cksum
    if size is not None:
        asks[IPv6].plen = 8 + size
    assert site.rx(UPLINK, asks) == {}
    site.lab.tick(30)
    assert site.lab.take() == {}


def test_who_sends_by_a_next_hop_that_does_not_answer_is_told_and_others_are_sent(site: Site) -> None:
    site.router.set_neighbour(site.lab, ROUTER, HOST, HOST_MAC)
    site.rx(0, udp_out(), to_server6(0))
    site.lab.tick(50)
    site.lab.take()
    found = site.rx(0, udp_out(), to_server6(0), udp_out(dst=HOST))
    assert [one[IP].dst for one in found[UPLINK]] == [HOST]
    four, six = found[0]
    assert refused(four) == (GATEWAY, 3, 1, SERVER)
    assert refused(six) == (str(GATEWAYS6[1]), 1, 0, SERVER6)
    assert site.lab.drops(0) == {"nowhere": 2}
    before = site.engine.stats()["flows"]
    site.rx(0, to_gateway(0, UDP(sport=77, dport=53)))
    assert site.engine.stats()["flows"] == before
    site.rx(UPLINK, arp_reply(NEXT_HOP, NEXT_HOP_MAC))
    assert len(site.rx(0, udp_out())[UPLINK]) == 1


def test_what_cannot_be_read_is_not_answered_when_the_next_hop_does_not_answer(site: Site) -> None:
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, Told.UNREACHABLE)
    broken = udp_out()
    broken[IP].chksum = 1
    assert site.rx(0, broken, bytes(udp_out())[:20]) == {}
    assert site.lab.drops(0) == {"egress": 1, "short": 1}


def test_a_next_hop_that_control_seeks_is_neither_asked_nor_heard(site: Site) -> None:
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, Told.SOUGHT)
    assert site.rx(0, udp_out()) == {}
    assert site.rx(UPLINK, arp_reply(NEXT_HOP, HOST_MAC)) == {}
    site.lab.tick(100)
    assert site.lab.take() == {}
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, NEXT_HOP_MAC)
    (sent,) = (Ether(one[12:]) for one in site.lab.take()[UPLINK])
    assert (sent.dst, sent[IP].dst) == (NEXT_HOP_MAC, SERVER)


def test_a_next_hop_that_control_says_is_unreachable_is_so_until_it_says_otherwise(site: Site) -> None:
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, Told.SOUGHT)
    site.rx(0, udp_out())
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, Told.UNREACHABLE)
    assert site.router.unresolved == (1, 0)
    assert site.pool.stats()["small"]["held"] == 0
    site.rx(UPLINK, arp_reply(NEXT_HOP, HOST_MAC))
    site.lab.tick(100)
    assert refused(site.rx(0, udp_out())[0][0]) == (GATEWAY, 3, 1, SERVER)
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, NEXT_HOP_MAC)
    assert site.rx(0, udp_out())[UPLINK][0].dst == NEXT_HOP_MAC


def test_a_neighbour_that_is_used_is_asked_again_after_a_minute_and_used_meanwhile(site: Site) -> None:
    site.rx(0, udp_out())
    site.rx(UPLINK, arp_reply(NEXT_HOP, NEXT_HOP_MAC))
    site.lab.tick(590)
    assert site.lab.take() == {}
    (sent,) = site.rx(0, udp_out())[UPLINK]
    assert sent.dst == NEXT_HOP_MAC
    site.lab.tick(20)
    asked = [Ether(one[12:]) for one in site.lab.take()[UPLINK]]
    assert {one[ARP].pdst for one in asked} == {NEXT_HOP}
    assert site.rx(0, udp_out())[UPLINK][0].dst == NEXT_HOP_MAC


def test_neighbours_are_asked_again_on_an_uplink_that_may_be_another_one(site: Site) -> None:
    site.rx(0, udp_out())
    site.rx(UPLINK, arp_reply(NEXT_HOP, NEXT_HOP_MAC))
    site.set_up(f"{EXTERNAL}/24")
    assert site.rx(0, udp_out())[UPLINK][0].dst == NEXT_HOP_MAC
    site.lab.tick()
    asked = [Ether(one[len(NO_OFFLOAD) :]) for one in site.lab.take()[UPLINK]]
    assert [one[ARP].pdst for one in asked if ARP in one] == [NEXT_HOP]
    site.rx(UPLINK, arp_reply(NEXT_HOP, HOST_MAC))
    assert site.rx(0, udp_out())[UPLINK][0].dst == HOST_MAC


def test_what_control_says_of_a_neighbour_holds_until_it_is_taken_back(site: Site) -> None:
    site.resolved()
    site.rx(UPLINK, arp_reply(NEXT_HOP, HOST_MAC))
    assert site.rx(0, udp_out())[UPLINK][0].dst == NEXT_HOP_MAC
    site.router.set_neighbour(site.lab, ROUTER, NEXT_HOP, Told.UNKNOWN)
    assert ARP in site.rx(0, udp_out())[UPLINK][0]
    with pytest.raises(OSError):
        site.router.set_neighbour(site.lab, ROUTER, HOST, Told.UNKNOWN)


@pytest.mark.parametrize("ip", [EXTERNAL])
def test_who_asks_for_the_external_address_is_answered(site: Site, ip: str) -> None:
    asks = Ether(src=HOST_MAC, dst=BROADCAST) / ARP(hwsrc=HOST_MAC, psrc=HOST, pdst=ip)
    (answer,) = site.rx(UPLINK, asks)[UPLINK]
    assert (answer.src, answer.dst) == (UPLINK_MAC, HOST_MAC)
    assert (answer[ARP].op, answer[ARP].hwsrc, answer[ARP].psrc) == (2, UPLINK_MAC, ip)
    assert (answer[ARP].hwdst, answer[ARP].pdst) == (HOST_MAC, HOST)


@pytest.mark.parametrize("ip", [NEXT_HOP, HOST, ip_of(0), GATEWAY])
def test_who_asks_for_others_is_not_answered(site: Site, ip: str) -> None:
    asks = Ether(src=HOST_MAC, dst=BROADCAST) / ARP(hwsrc=HOST_MAC, psrc=HOST, pdst=ip)
    assert site.rx(UPLINK, asks) == {}


def test_neighbours_that_nobody_needs_are_not_remembered(site: Site) -> None:
    site.rx(UPLINK, arp_reply(HOST, HOST_MAC))
    assert ARP in site.rx(0, udp_out(dst=HOST))[UPLINK][0]


@pytest.mark.parametrize("target", [EXTERNAL6, "fe80::ff:fe00:100"])
def test_who_solicits_an_address_of_ours_is_answered(site: Site, target: str) -> None:
    asks = (
        Ether(src=HOST_MAC, dst="33:33:ff:00:00:05")
        / IPv6(src="2001:db8:1::9", dst="ff02::1:ff00:5", hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=HOST_MAC)
    )
    (answer,) = site.rx(UPLINK, asks)[UPLINK]
    assert (answer.dst, answer[IPv6].dst, answer[IPv6].hlim) == (HOST_MAC, "2001:db8:1::9", 255)
    assert (answer[ICMPv6ND_NA].tgt, answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].O) == (target, 1, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == UPLINK_MAC
    asks[IPv6].hlim = 254
    assert site.rx(UPLINK, asks) == {}


def test_the_next_hop_of_ipv6_is_solicited(site: Site) -> None:
    frame = udp6(0, 1)
    frame.dst, frame[IPv6].dst = GATEWAY_MAC, SERVER6
    (asked,) = site.rx(0, frame)[UPLINK]
    assert (asked.dst, asked[IPv6].src, asked[IPv6].dst) == ("33:33:ff:00:00:01", EXTERNAL6, "ff02::1:ff00:1")
    assert asked[ICMPv6ND_NS].tgt == NEXT_HOP6
    tells = (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC)
        / IPv6(src=NEXT_HOP6, dst=EXTERNAL6, hlim=255)
        / ICMPv6ND_NA(tgt=NEXT_HOP6)
        / ICMPv6NDOptDstLLAddr(lladdr=NEXT_HOP_MAC)
    )
    broken = Ether(bytes(tells))
    broken[ICMPv6ND_NA].cksum ^= 1
    assert site.rx(UPLINK, broken) == {}
    (sent,) = site.rx(UPLINK, tells)[UPLINK]
    assert (sent.dst, sent[IPv6].dst) == (NEXT_HOP_MAC, SERVER6)


def test_a_silent_guest_is_asked_for_when_a_forward_leads_to_it(site: Site) -> None:
    site.resolved().engine.add_forward("tcp", 8080, ip_of(1), 80)
    syn = Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC) / IP(src=SERVER, dst=EXTERNAL) / TCP(sport=4000, dport=8080)
    asked = site.rx(UPLINK, syn)
    assert set(asked) == {0, 1}  # and not the bridge, which has the gateway's MAC itself
    assert (asked[1][0].src, asked[1][0][ARP].psrc, asked[1][0][ARP].pdst) == (GATEWAY_MAC, GATEWAY, ip_of(1))
    tells = Ether(src=mac_of(1), dst=GATEWAY_MAC) / ARP(
        op=2, hwsrc=mac_of(1), psrc=ip_of(1), hwdst=GATEWAY_MAC, pdst=GATEWAY
    )
    found = site.rx(1, tells)
    assert (found[1][0][IP].dst, found[1][0][TCP].dport) == (ip_of(1), 80)
    assert [one[ARP].psrc for one in found[BRIDGE]] == [ip_of(1)]


@pytest.mark.parametrize("dst", [HOST_MAC, BROADCAST, "33:33:00:00:00:01"])
def test_frames_to_others_on_the_uplink_are_not_translated(site: Site, dst: str) -> None:
    site.resolved()
    (sent,) = site.rx(0, udp_out())[UPLINK]
    answer = answer_to(sent)
    answer.dst = dst
    assert site.rx(UPLINK, answer) == {}


def test_a_guest_behind_the_leg_is_answered_there(site: Site) -> None:
    (sent,) = site.resolved().rx(LEG, by_bridge(7, UDP(sport=5000, dport=53)))[UPLINK]
    assert (sent[IP].src, sent[IP].ttl) == (EXTERNAL, 63)
    found = site.rx(UPLINK, answer_to(sent))
    assert set(found) == {LEG}
    (came,) = found[LEG]
    assert (came.src, came.dst, came[IP].dst) == (LEG_MAC, mac_of(7), ip_of(7))


def test_a_guest_behind_the_leg_that_control_knows_is_not_asked_for(site: Site) -> None:
    site.resolved().engine.add_forward("udp", 5353, ip_of(7))
    site.router.set_neighbour(site.lab, ROUTER, ip_of(7), mac_of(7), way=Way.LEG)
    asks = (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC) / IP(src=SERVER, dst=EXTERNAL) / UDP(sport=4000, dport=5353)
    )
    (came,) = site.rx(UPLINK, asks)[LEG]
    assert (came.dst, came[UDP].dport) == (mac_of(7), 5353)


def test_an_ipv6_guest_behind_the_leg_is_answered_after_an_hour_of_silence(site: Site) -> None:
    asks = Ether(src=mac_of(7), dst=LEG_MAC) / IPv6(src=ip6_of(7), dst=SERVER6)
    open_tcp = asks / TCP(sport=5000, dport=80, flags="S", seq=1)
    (sent,) = site.resolved().rx(LEG, open_tcp)[UPLINK]
    back = Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC) / IPv6(src=SERVER6, dst=EXTERNAL6)
    ports = {"sport": 80, "dport": sent[TCP].sport}
    site.rx(UPLINK, back / TCP(**ports, flags="SA", seq=1, ack=2))
    site.rx(LEG, asks / TCP(sport=5000, dport=80, flags="A", seq=2, ack=2))
    site.lab.tick(3600 * 10)
    (came,) = site.rx(UPLINK, back / TCP(**ports, flags="A", seq=1, ack=2))[LEG]
    assert came.dst == mac_of(7)


def test_guests_of_both_kinds_reach_each_other_by_the_external_address(site: Site) -> None:
    site.resolved()
    forward = site.engine.add_forward("udp", 7000, ip_of(1), 7001)
    site.rx(1, udp_out(1))
    (came,) = site.rx(LEG, by_bridge(7, UDP(sport=9, dport=forward.external_port), dst=EXTERNAL))[1]
    answer = to_gateway(1, UDP(sport=7001, dport=came[UDP].sport), dst=EXTERNAL)
    (back,) = site.rx(1, answer)[LEG]
    assert (back.dst, back[IP].dst, back[UDP].dport) == (mac_of(7), ip_of(7), 9)


@pytest.mark.parametrize(
    "frame",
    [
        Ether(src=mac_of(7), dst=BROADCAST) / ARP(psrc=ip_of(7), pdst=GATEWAY),
        Ether(src=mac_of(7), dst=LEG_MAC) / ARP(psrc=ip_of(7), pdst=GATEWAY),
        by_bridge(7, UDP(), dst=ip_of(1)),
        by_bridge(7, UDP(), dst=GATEWAY),
        Ether(src=mac_of(7), dst=GATEWAY_MAC) / IP(src=ip_of(7), dst=SERVER) / UDP(),
    ],
    ids=["broadcast", "arp", "neighbour", "gateway", "other-mac"],
)
def test_what_is_not_to_leave_does_not_pass_the_leg(site: Site, frame: Packet) -> None:
    assert site.resolved().rx(LEG, frame) == {}
    assert sum(site.lab.drops(LEG).values()) == 1


def test_guests_behind_the_leg_have_shares_of_their_own(site: Site) -> None:
    for i in range(10, 15):
        site.rx(LEG, *[by_bridge(7, UDP(), dst=f"203.0.113.{i}") for _ in range(8)])
    assert site.lab.drops(LEG) == {"waiting": 8}
    site.rx(LEG, by_bridge(8, UDP(), dst="203.0.113.20"))
    assert site.lab.drops(LEG) == {"waiting": 8}


def by_bridge_from(mac: str, *, ip: str = ip_of(7), dst: str) -> Packet:
    frame = by_bridge(7, UDP(), dst=dst)
    frame.src, frame[IP].src = mac, ip
    return frame


@pytest.mark.parametrize("other", ["02:00:00:00:00:50", "02:00:00:00:01:11", "06:00:00:40:00:10"])
def test_no_choice_of_a_mac_takes_of_another_guests_share(site: Site, other: str) -> None:
    """The first MAC has taken half of the places that there are, and would take the rest."""
    for i in range(10, 15):
        site.rx(LEG, *[by_bridge_from("02:00:00:00:00:10", dst=f"203.0.113.{i}") for _ in range(8)])
    assert site.lab.drops(LEG) == {"waiting": 8}
    for i in range(20, 22):
        site.rx(LEG, *[by_bridge_from(other, dst=f"203.0.113.{i}") for _ in range(8)])
    assert site.lab.drops(LEG) == {"waiting": 8}


@pytest.mark.parametrize(("others", "ways"), [(SHARERS_MAX - 1, [LEG]), (SHARERS_MAX, [])])
def test_guests_behind_the_leg_have_shares_up_to_a_limit(site: Site, others: int, ways: list[int]) -> None:
    """Who comes after the last is not remembered, and has to be asked for."""
    site.resolved().engine.add_forward("udp", 5353, ip_of(7))
    for i in range(0, others, 64):
        octets = [(n // 256, n % 256) for n in range(i, min(i + 64, others))]
        site.rx(
            LEG,
            *[
                by_bridge_from(f"02:00:00:01:{a:02x}:{b:02x}", ip=f"10.1.{a}.{b}", dst=GATEWAY)
                for a, b in octets
            ],
        )
    site.rx(LEG, by_bridge_from(mac_of(7), dst=SERVER))
    asks = (
        Ether(src=NEXT_HOP_MAC, dst=UPLINK_MAC) / IP(src=SERVER, dst=EXTERNAL) / UDP(sport=4000, dport=5353)
    )
    assert [port for port, frames in site.rx(UPLINK, asks).items() if UDP in frames[0]] == ways


def test_fragments_wait_in_the_engine_and_go_on(site: Site) -> None:
    site.resolved()
    whole = bytes(UDP(sport=5000, dport=53, len=3008, chksum=0) / Raw(bytes(3000)))
    packets = [to_gateway(0, Raw(whole[at : at + 1480])) for at in range(0, 3008, 1480)]
    for i, packet in enumerate(packets):
        packet[IP].proto, packet[IP].id, packet[IP].frag = 17, 7, i * 185
        packet[IP].flags = "MF" if i < len(packets) - 1 else 0
    sent = [one for packet in packets for one in site.rx(0, packet).get(UPLINK, [])]
    assert b"".join(bytes(one[IP].payload) for one in sent)[8:] == bytes(3000)
    assert {one[IP].src for one in sent} == {EXTERNAL}


def test_the_engine_forgets_flows_in_ticks(site: Site) -> None:
    site.resolved().rx(0, udp_out())
    assert site.engine.stats()["flows"] == 1
    site.lab.tick(330)
    assert site.engine.stats()["flows"] == 0
