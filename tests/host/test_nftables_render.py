"""The ruleset as text: golden files, so that a change of the firewall is seen as what an admin will see.

`ABX_UPDATE_GOLDEN=1 pytest tests/host/test_nftables_render.py` rewrites them.
"""

from __future__ import annotations

import dataclasses
import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from arcbox_net.host.linux import ruleset
from arcbox_net.host.linux.rules_bridge import port_wildcard
from arcbox_net.host.plan import (
    Dnat,
    FirewallPlan,
    HostAccessRedirect,
    PortPlan,
    RelayPlan,
    RelayShard,
    port_ifname,
    tun_ifname,
)

GOLDEN = Path(__file__).parent / "golden"
SUBNET = IPv4Network("192.168.64.0/24")
GUEST = IPv4Address("192.168.64.2")


def port(index: int, *ips: str, network: str = "lab", anti_spoof: bool = True) -> PortPlan:
    return PortPlan(
        network=network,
        port=f"vm{index}",
        ifname=port_ifname(network, index),
        bridge="abx-lab",
        mac=f"02:00:00:00:00:{index:02x}",
        mtu=1500,
        ips=tuple(map(IPv4Address, ips)),
        anti_spoof=anti_spoof,
    )


NAT = FirewallPlan(
    network="lab",
    bridge="abx-lab",
    subnet=SUBNET,
    gateway=IPv4Address("192.168.64.1"),
    masquerade=True,
    dhcp=True,
    dns=True,
    ports=(port(1, "192.168.64.2"), port(2, "192.168.64.3", "192.168.64.4"), port(3, anti_spoof=False)),
    dnats=(
        Dnat("tcp", None, 8080, GUEST, 80),
        Dnat("udp", IPv4Address("203.0.113.2"), 5353, GUEST, 53),
    ),
    redirects=(HostAccessRedirect("tcp", 8000, 41000),),
)
SUBNET6 = IPv6Network("fd12:3456:789a::/64")
GATEWAY6 = IPv6Address("fd12:3456:789a::1")
GUEST6 = IPv6Address("fd12:3456:789a::2")
NAT6 = dataclasses.replace(
    NAT,
    subnet6=SUBNET6,
    gateway6=GATEWAY6,
    dnats=(
        *NAT.dnats,
        Dnat("tcp", None, 8080, GUEST6, 80),
        Dnat("udp", IPv6Address("2001:db8::2"), 5353, GUEST6, 53),
    ),
)


def relay(shards: int) -> RelayPlan:
    return RelayPlan(
        tuple(RelayShard(index, tun_ifname(index), 40000 + index, 60000 + index) for index in range(shards))
    )


RELAY = dataclasses.replace(NAT6, masquerade=False, relay=relay(2), dnats=())
PLANS = {
    "nat": NAT,
    "nat_empty": dataclasses.replace(NAT, ports=(), dnats=(), redirects=()),
    "host_only": dataclasses.replace(NAT, masquerade=False, dnats=(), redirects=()),
    "isolated": dataclasses.replace(NAT, isolated=True, dnats=(), redirects=()),
    "engine": dataclasses.replace(
        NAT6,
        masquerade=False,
        isolated=True,
        router_mac="02:00:00:00:02:00",
        routes_ipv6=True,
        redirects=(),
    ),
    "nat_ipv6": NAT6,
    "host_only_ipv6": dataclasses.replace(NAT6, masquerade=False, isolated=True, dnats=(), redirects=()),
    "relay": dataclasses.replace(RELAY, redirects=()),
    "relay_host_access": dataclasses.replace(RELAY, isolated=True),
    "relay_ipv4": dataclasses.replace(
        RELAY, relay=relay(1), subnet6=None, gateway6=None, ports=(), redirects=()
    ),
    "bridge": FirewallPlan(network="lab", bridge="br0", ports=(port(1), port(2, "10.1.2.3"))),
}


@pytest.mark.parametrize("name", PLANS)
def test_ruleset_is_the_golden_one(name: str) -> None:
    path = GOLDEN / f"{name}.nft"
    text = ruleset.render(PLANS[name])
    if os.environ.get("ABX_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def test_engine_without_an_ipv6_address_is_given_no_ipv6() -> None:
    text = ruleset.render(dataclasses.replace(PLANS["engine"], routes_ipv6=False))
    assert text.count("ether daddr set") == 1


def test_bridge_network_has_no_inet_table() -> None:
    assert "table inet" not in ruleset.render(PLANS["bridge"])


def test_replacement_removes_both_families_first_so_that_it_is_one_transaction() -> None:
    head = ruleset.replacement(PLANS["bridge"]).splitlines()[:4]
    assert head == [
        "add table inet abx_lab",
        "delete table inet abx_lab",
        "add table bridge abx_lab",
        "delete table bridge abx_lab",
    ]


def test_port_pattern_covers_the_ports_of_one_network_only() -> None:
    prefix = port_wildcard("lab").removesuffix("*")
    assert port_ifname("lab", 0).startswith(prefix) and port_ifname("lab", 123).startswith(prefix)
    assert not port_ifname("lab2", 0).startswith(prefix)


def test_port_without_address_may_speak_ipv4_only_where_others_assign_addresses() -> None:
    assert "any_address_ports" not in ruleset.port_elements(port(1), any_address=False)
    assert ruleset.port_elements(port(1), any_address=True)["any_address_ports"] == [f'"{port(1).ifname}"']
