"""IPv6 of bridges and guests' interfaces in a real kernel: the gateway's two addresses, and the guest's one."""

from __future__ import annotations

import os
from ipaddress import IPv6Interface, IPv6Network

import pytest

from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.namespace import open_netns
from tests.host.linux.plans import bridge_plan, veth_plan
from tests.support import netns
from tests.support.netns import Host, Namespace

pytestmark = [pytest.mark.e2e, netns.requires_root]

SUBNET = IPv6Network("fd12:3456:789a::/64")
GATEWAY6 = IPv6Interface("fd12:3456:789a::1/64")
BOTH = {("fd12:3456:789a::1", 64), ("fe80::1", 64)}


def addresses6(where: Namespace, ifname: str) -> set[tuple[str, int]]:
    (link,) = where.json(f"ip -6 -j addr show dev {ifname}") or [{"addr_info": []}]
    return {(a["local"], a["prefixlen"]) for a in link["addr_info"]}


def attach(links: Links, guest: Namespace, address6: IPv6Interface) -> None:
    fd = open_netns(guest.path, None)
    try:
        links.create_veth(veth_plan(address6=address6), fd)
    finally:
        os.close(fd)


def test_a_bridge_with_ipv6_is_a_router_with_two_addresses_usable_at_once(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan(gateway6=GATEWAY6))
    assert addresses6(host, "abx-t1") == BOTH
    assert host.run("ip -6 addr show dev abx-t1 tentative").stdout == ""
    for name, value in (("disable_ipv6", "0"), ("accept_ra", "0"), ("forwarding", "1")):
        assert host.sysctl(f"net.ipv6.conf.abx-t1.{name}") == value


def test_a_bridge_is_put_right(host: Host, links: Links) -> None:
    plan = bridge_plan(gateway6=GATEWAY6)
    links.apply_bridge(plan)
    host.run("ip addr del fe80::1/64 dev abx-t1")
    host.run("ip addr add 2001:db8::7/64 dev abx-t1")
    links.apply_bridge(plan)
    assert addresses6(host, "abx-t1") == BOTH
    host.sysctl("net.ipv6.conf.abx-t1.disable_ipv6", 1)
    links.apply_bridge(plan)
    assert addresses6(host, "abx-t1") == BOTH


def test_a_bridge_whose_network_lost_ipv6_has_no_address_of_it(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan(gateway6=GATEWAY6))
    links.apply_bridge(bridge_plan())
    assert addresses6(host, "abx-t1") == set()


def test_a_guest_that_is_configured_has_the_address_that_it_would_make_itself(
    host: Host, links: Links
) -> None:
    links.apply_bridge(bridge_plan(gateway6=GATEWAY6))
    guest = host.namespace("guest")
    plan = veth_plan()
    address = eui64_address(SUBNET, parse_mac(plan.mac))
    attach(links, guest, IPv6Interface((address, 64)))
    shown = {text for text, _ in addresses6(guest, "eth0")}
    assert str(address) in shown
    assert guest.run("ip -6 addr show dev eth0 tentative").stdout == ""


def test_a_guest_with_ipv6_switched_off_is_attached_without(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan(gateway6=GATEWAY6))
    guest = host.namespace("guest")
    for entry in ("all", "default"):
        guest.sysctl(f"net.ipv6.conf.{entry}.disable_ipv6", 1)
    attach(links, guest, IPv6Interface("fd12:3456:789a::7/64"))
    assert addresses6(guest, "eth0") == set()
    assert "UP" in guest.links()["eth0"]["flags"]


def test_a_subnet_in_use_clashes_and_an_aggregate_does_not(host: Host, links: Links) -> None:
    host.run("ip link add v0 type veth peer name v1")
    host.run("ip link set v0 up")
    host.run("ip -6 addr add fd12:3456:789a::7/64 dev v0 nodad")
    host.run("ip -6 route add fd77::/48 dev v0")
    host.run("ip -6 route add unreachable fd00::/8")
    host.run("ip -6 route add default dev v0")
    texts = [str(clash) for clash in links.conflicts(SUBNET)]
    assert texts == [
        "fd12:3456:789a::/64 dev v0 proto kernel metric 256",
        "address fd12:3456:789a::7/64 dev v0",
    ]
    assert links.conflicts(SUBNET, ["v0"]) == []
    assert [clash.ifname for clash in links.conflicts(IPv6Network("fd77:0:0:9::/64"))] == ["v0"]
    assert links.conflicts(IPv6Network("fd99::/64")) == []
