"""What guests ask of the network itself: a service's port gets it, and what is beyond the uplink neither hears it nor
answers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from arcbox_net.dataplane.port_binding import PortBinding, SwitchNetwork
from tests.support.switch import (
    BROADCAST,
    GATEWAY,
    GATEWAY_MAC,
    UPLINK,
    Segment,
    arp,
    dhcp,
    ether,
    guest,
    ip_of,
    mac_of,
    tcp4,
)

SERVICE = 2
SERVICE_MAC = "02:00:00:00:00:fd"
SERVED_BURST = 1000


def segment(*, isolated: bool = False, role: str = "guest") -> Segment:
    """Guests on ports 0 and 1, the service on 2."""
    made = Segment(guests=[guest(0, isolated=isolated), guest(1, isolated=isolated)])
    if role == "trusted":
        made.bind(0, PortBinding("trusted"))
    made.bind(SERVICE, PortBinding("service", mac=SERVICE_MAC))
    network = SwitchNetwork(
        subnet=IPv4Network("192.168.64.0/24"), service=SERVICE, gateway=IPv4Address(GATEWAY)
    )
    made.switch.set_network(made.lab, UPLINK, network)
    return made


def query(source: int = 0, *, to: str = GATEWAY, mac: str = GATEWAY_MAC, dport: int = 53) -> Packet:
    return ether(source, mac) / IP(src=ip_of(source), dst=to) / UDP(sport=1024, dport=dport) / Raw(b"?" * 20)


RENEWAL = {"src": ip_of(0), "dst": GATEWAY}


@pytest.mark.parametrize("role", ["guest", "trusted"])
@pytest.mark.parametrize("isolated", [False, True], ids=["together", "isolated"])
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(dhcp(0, "discover"), id="discover"),
        pytest.param(ether(0, GATEWAY_MAC) / dhcp(0, "request", **RENEWAL)[IP], id="renewal"),
        pytest.param(ether(0, GATEWAY_MAC) / dhcp(0, "discover")[IP], id="discover-to-the-gateways-mac"),
        pytest.param(ether(0, BROADCAST) / dhcp(0, "request", **RENEWAL)[IP], id="rebinding"),
        pytest.param(query(), id="dns"),
        pytest.param(query(mac=BROADCAST), id="dns-by-broadcast"),
    ],
)
def test_what_is_asked_of_the_network_goes_to_the_service_alone(
    asked: Packet, isolated: bool, role: str
) -> None:
    assert segment(isolated=isolated, role=role).reaches(0, asked) == {SERVICE}


@pytest.mark.parametrize(
    ("sent", "reached"),
    [
        pytest.param(query(to="8.8.8.8"), {UPLINK}, id="dns-of-somebody-else"),
        pytest.param(query(to=ip_of(1), mac=mac_of(1)), {1}, id="dns-of-a-guest"),
        pytest.param(query(dport=54), {UPLINK}, id="another-port-of-the-gateway"),
        pytest.param(query(to="8.8.8.8", dport=67), {UPLINK}, id="dhcp-of-somebody-else"),
        pytest.param(query(to=ip_of(1), mac=mac_of(1), dport=67), {1}, id="dhcp-of-a-guest"),
        pytest.param(
            ether(0, GATEWAY_MAC) / IP(src=ip_of(0), dst=GATEWAY) / TCP(dport=53), {UPLINK}, id="tcp"
        ),
        pytest.param(
            ether(0, GATEWAY_MAC) / IP(src=ip_of(0), dst=GATEWAY, frag=1, proto=17) / Raw(b"\0\x35" * 8),
            {UPLINK},
            id="later-fragment",
        ),
        pytest.param(arp(0, GATEWAY), {1, UPLINK}, id="arp"),
        pytest.param(tcp4(0, 1), {1}, id="a-neighbour"),
    ],
)
def test_all_else_goes_where_it_would_go(sent: Packet, reached: set[int]) -> None:
    assert segment().reaches(0, sent) == reached


def test_without_a_service_it_all_goes_to_the_gateway() -> None:
    assert Segment().reaches(0, query()) == {UPLINK}


def test_the_service_answers_in_the_gateways_name_and_the_gateway_stays_where_it_is() -> None:
    made = segment()
    answer = Ether(src=GATEWAY_MAC, dst=mac_of(0)) / IP(src=GATEWAY, dst=ip_of(0)) / UDP(sport=53)
    assert made.reaches(SERVICE, answer) == {0}
    assert made.reaches(0, ether(0, GATEWAY_MAC) / IP(src=ip_of(0), dst="8.8.8.8") / TCP()) == {UPLINK}


def test_an_offer_by_broadcast_stays_among_the_guests_and_a_probe_does_not() -> None:
    made = segment()
    offer = Ether(src=SERVICE_MAC, dst=BROADCAST) / IP(src=GATEWAY, dst="255.255.255.255") / UDP(dport=68)
    assert made.reaches(SERVICE, offer) == {0, 1}
    probe = Ether(src=SERVICE_MAC, dst=BROADCAST) / ARP(hwsrc=SERVICE_MAC, psrc="0.0.0.0", pdst=ip_of(0))
    assert made.reaches(SERVICE, probe) == {0, 1, UPLINK}
    reply = ARP(op=2, hwsrc=mac_of(0), psrc=ip_of(0), hwdst=SERVICE_MAC, pdst="0.0.0.0")
    assert made.reaches(0, ether(0, SERVICE_MAC) / reply) == {SERVICE}


def test_nobody_else_has_the_services_mac() -> None:
    made = segment()
    with pytest.raises(FileExistsError):
        made.bind(1, PortBinding(mac=SERVICE_MAC))
    assert made.reason(UPLINK, Ether(src=SERVICE_MAC, dst=mac_of(0)) / IP() / TCP()) == "source_mac"


@pytest.mark.parametrize("to", [BROADCAST, mac_of(0)])
def test_a_dhcp_server_beyond_the_uplink_is_not_heard(to: str) -> None:
    offer = Ether(src=GATEWAY_MAC, dst=to) / IP(src=GATEWAY, dst=ip_of(0)) / UDP(sport=67, dport=68)
    assert segment().reason(UPLINK, offer) == "dhcp"
    assert 0 in Segment().reaches(UPLINK, offer)


def test_what_strangers_beyond_the_uplink_ask_is_not_the_services() -> None:
    asked = dhcp(0, "discover")
    asked.src = "02:00:00:00:00:99"
    assert segment().reaches(UPLINK, asked) == {0, 1}


def test_a_guest_asks_no_more_than_a_limit_and_the_others_all_the_same() -> None:
    made = segment()
    for _ in range(SERVED_BURST):
        assert made.reaches(0, query()) == {SERVICE}
    assert made.reason(0, query()) == "storm"
    assert made.reaches(1, query(1)) == {SERVICE}


@pytest.mark.parametrize("size", range(14, 42))
def test_a_packet_that_ends_early_is_never_the_services(size: int) -> None:
    made = segment(role="trusted")
    cut = bytes(query())[:size]
    reached = made.reaches(0, cut)
    assert reached == ({SERVICE} if size >= 38 else {UPLINK})
