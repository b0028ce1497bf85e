"""The TAP of the user-space switch on its bridge, and the guests behind it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from arcbox_net.errors import InterfaceNotFound
from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import (
    UPLINK,
    FirewallPlan,
    SwitchedPlan,
    UplinkPlan,
    alias,
    bridge_ifname,
    uplink_ifname,
)
from tests.host.linux.plans import bridge_plan, tap_plan
from tests.support.netns import Host

pytestmark = pytest.mark.e2e
COMMON = {"network": "t1", "ifname": uplink_ifname("t1"), "bridge": bridge_ifname("t1"), "mtu": 1500}
PLAN = UplinkPlan(port=UPLINK, mac="02:00:00:00:00:ff", multi_queue=True, isolated=True, **COMMON)  # type: ignore[arg-type]


def guest(index: int) -> SwitchedPlan:
    mac, ip = f"02:00:00:00:01:{index:02x}", IPv4Address("192.168.64.2") + index
    return SwitchedPlan(port=f"vm{index}", mac=mac, ips=(ip,), **COMMON)  # type: ignore[arg-type]


@pytest.fixture
def uplink(links: Links) -> Iterator[int]:
    links.apply_bridge(bridge_plan())
    fds = links.create_tap(PLAN)
    yield fds[0]
    os.close(fds[0])


def pinned(host: Host) -> set[str]:
    lines = host.run(f"bridge fdb show dev {PLAN.ifname}").stdout.splitlines()
    return {line.split()[0] for line in lines if "static" in line}


def test_uplink_is_ours_and_as_isolated_as_the_guests_behind_it(
    host: Host, links: Links, uplink: int
) -> None:
    link = host.links()[PLAN.ifname]
    flags = link["linkinfo"]["info_slave_data"]
    assert (flags["isolated"], flags["learning"], flags["flood"]) == (True, False, False)
    assert (link["master"], link["ifalias"]) == (PLAN.bridge, alias("t1", UPLINK))


def test_bridge_sends_to_the_uplink_what_is_for_guests_behind_it(
    host: Host, links: Links, uplink: int
) -> None:
    links.pin_behind(guest(1))
    links.pin_behind(guest(2))
    links.pin_behind(guest(2))
    assert pinned(host) == {guest(1).mac, guest(2).mac}
    links.unpin_behind(guest(1))
    links.unpin_behind(guest(1))
    assert pinned(host) == {guest(2).mac}


def test_renamed_uplink_gets_its_name_back(host: Host, links: Links, uplink: int) -> None:
    host.run(f"ip link set {PLAN.ifname} name stray0")
    links.apply_port(PLAN)
    assert PLAN.ifname in host.links() and "stray0" not in host.links()


def test_uplink_that_is_gone_is_reported_and_guests_behind_it_are_forgotten(
    host: Host, links: Links, uplink: int
) -> None:
    host.run(f"ip link del {PLAN.ifname}")
    with pytest.raises(InterfaceNotFound):
        links.apply_port(PLAN)
    with pytest.raises(InterfaceNotFound):
        links.pin_behind(guest(1))
    links.unpin_behind(guest(1))


@pytest.mark.parametrize("anti_spoof", [True, False])
def test_guests_behind_one_uplink_are_let_through_and_silenced_one_by_one(
    host: Host, anti_spoof: bool
) -> None:
    def plan(index: int) -> SwitchedPlan:
        return dataclasses.replace(guest(index), anti_spoof=anti_spoof)

    uplink = dataclasses.replace(PLAN, anti_spoof=anti_spoof)
    firewall = Firewall("t1")
    tap = tap_plan(anti_spoof=anti_spoof)

    def elements(name: str) -> str:
        return host.run(f"nft list set bridge abx_t1 {name}").stdout

    def work() -> None:
        firewall.apply(FirewallPlan("t1", bridge_ifname("t1")))
        for port in (tap, uplink, plan(1), plan(2)):
            firewall.add_port(port)
        firewall.remove_port(plan(1))

    host.call(work)
    try:
        if anti_spoof:
            assert plan(2).mac in elements("macs") and plan(1).mac not in elements("macs")
            assert str(plan(2).ips[0]) in elements("addresses")
            assert uplink.mac not in elements("macs"), "nobody sends from the uplink's own address"
        else:
            assert uplink.ifname in elements("unfiltered_ports")
    finally:
        host.call(firewall.remove)
