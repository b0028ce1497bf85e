"""A NIC under our bridge and back: every address and route as it was, also after a crash at any step."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbox_net.errors import InterfaceNotFound, Unsupported
from arcbox_net.host.linux import moved, nic, rtnl
from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.rtsocket import RouteSocket
from tests.host.linux.crash import Crash, crash_at
from tests.host.linux.plans import bridge_plan
from tests.support import netns
from tests.support.echo import wait_for_echo
from tests.support.netns import Host

BRIDGE = "abx-t1"
ROUTES = """
ip addr add 203.0.113.77/24 dev up0
ip addr add 198.51.100.5/25 dev up0 noprefixroute
ip addr add 192.0.2.65/32 dev up0 label up0:vip
ip route add 198.51.100.0/25 dev up0 scope link metric 77 proto static
ip route add 10.50.0.0/16 via 203.0.113.9 dev up0 metric 50 table 100 proto dhcp
ip route add 10.60.0.0/16 via 172.31.0.1 dev up0 onlink mtu 1400 advmss 1300
ip route add 10.70.0.0/16 via 198.51.100.1 dev up0 src 203.0.113.77
ip route add 10.80.0.0/16 nexthop via 203.0.113.3 dev up0 weight 2 nexthop via 203.0.113.4 dev up0
ip route add default via 203.0.113.8 dev up0 metric 900 proto dhcp src 203.0.113.2
ip -6 addr add 2001:db8::5/64 dev up0 nodad
ip -6 addr add 2001:db8::6/64 dev up0 nodad
ip -6 addr add 2001:db8:1::6/128 dev up0 nodad valid_lft 4000 preferred_lft 3000
ip -6 route add default via 2001:db8::1 dev up0 metric 1024
ip -6 route add 2001:db8:9::/48 via fe80::1 dev up0 proto static
ip -6 route add 2001:db8:a::/48 via 2001:db8::9 dev up0 table 100
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as created:
        for name in ("up0", "default"):  # duplicate address detection would take two seconds each time
            created.sysctl(f"net.ipv6.conf.{name}.dad_transmits", 0)
        for command in ROUTES.strip().splitlines():
            created.run(command)
        settle(created)
        yield created


@pytest.fixture
def links(host: Host) -> Iterator[Links]:
    with Links(host.path) as opened:
        opened.apply_bridge(bridge_plan(gateway=None))
        yield opened


def settle(host: Host, ifname: str = "up0") -> None:
    """Wait until the kernel has made the link-local address, which it does a moment after carrier."""

    def done() -> bool:
        listed = host.json(f"ip -6 -j addr show dev {ifname}")
        addresses = listed[0]["addr_info"] if listed else []
        return any(a["scope"] == "link" for a in addresses) and not any(a.get("tentative") for a in addresses)

    netns.wait_until(done, message="no usable link-local address")


def picture(host: Host) -> dict[str, Any]:
    """Addresses of the NIC and all routes as `ip` shows them; lifetimes only as running or not."""
    (link,) = host.json("ip -j addr show up0")
    for address in link["addr_info"]:
        for key in ("valid_life_time", "preferred_life_time"):
            address[key] = address[key] == 0xFFFFFFFF
    routes = host.json("ip -j -4 route show table all") + host.json("ip -j -6 route show table all")
    for route in routes:
        if "expires" in route:
            route["expires"] = True
    ours = [route for route in routes if route.get("dev") != BRIDGE]
    return {"link": link, "routes": ours}


def no_journal(saved: dict[str, Any]) -> None:
    json.dumps(saved)


@pytest.mark.e2e
@netns.requires_root
def test_the_bridge_stands_in_for_the_nic_and_gives_it_back_exactly(host: Host, links: Links) -> None:
    before = picture(host)
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    (bridge,) = host.json(f"ip -j addr show {BRIDGE}")
    (idle,) = host.json("ip -j addr show up0")
    assert bridge["address"] == idle["address"] and idle["master"] == BRIDGE
    assert idle["addr_info"] == []
    moved = [a["local"] for a in bridge["addr_info"] if a["scope"] == "global"]
    assert moved == [a["local"] for a in before["link"]["addr_info"] if a["scope"] == "global"]
    assert not [route for route in host.json("ip -j route show table all") if route.get("dev") == "up0"]
    settle(host, BRIDGE)
    wait_for_echo(host, host.world_ip)
    links.return_nic(json.loads(json.dumps(saved)))
    links.remove(BRIDGE)
    settle(host)
    assert picture(host) == before
    wait_for_echo(host, host.world_ip)


@pytest.mark.e2e
@netns.requires_root
def test_returning_twice_changes_nothing(host: Host, links: Links) -> None:
    before = picture(host)
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    links.return_nic(saved)
    links.return_nic(saved)
    links.remove(BRIDGE)
    links.return_nic(saved)
    settle(host)
    assert picture(host) == before


@pytest.mark.e2e
@netns.requires_root
def test_a_bridge_that_vanished_with_the_addresses_still_gives_them_back(host: Host, links: Links) -> None:
    before = picture(host)
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    host.run(f"ip link del {BRIDGE}")
    links.return_nic(saved)
    settle(host)
    assert picture(host) == before


@pytest.mark.e2e
@netns.requires_root
def test_k9_a_renamed_nic_is_given_back_under_its_new_name(host: Host, links: Links) -> None:
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    host.run("ip link set up0 name lan0")
    links.return_nic(saved)
    (link,) = host.json("ip -j addr show lan0")
    assert host.host_ip in [address["local"] for address in link["addr_info"]]


@pytest.mark.e2e
@netns.requires_root
def test_k9_a_nic_that_is_gone_is_no_error(host: Host, links: Links) -> None:
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    host.run("ip link del up0")
    links.return_nic(saved)
    assert links.remove(BRIDGE)
    assert links.readopt_nic(saved) is False


def crashed_adoption(links: Links, step: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any] | None:
    """What the journal holds after a crash at *step*; None when adoption was done before."""
    journal: list[dict[str, Any]] = []
    with monkeypatch.context() as patched:
        crash_at(step, patched)
        try:
            links.adopt_nic("up0", BRIDGE, lambda saved: journal.append(json.loads(json.dumps(saved))))
        except Crash:
            return journal[0]
    return None


@pytest.mark.e2e
@pytest.mark.fault
@pytest.mark.slow
@netns.requires_root
def test_k1_a_crash_at_any_step_of_the_adoption_is_undone_exactly(
    host: Host, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(host)
    for step in range(200):
        saved = crashed_adoption(links, step, monkeypatch)
        if saved is None:
            assert step > 20
            return
        with Links(host.path) as fresh:
            fresh.return_nic(saved)
        settle(host)
        assert picture(host) == before, f"crash at step {step}"
    raise AssertionError("adoption never ended")


@pytest.mark.e2e
@pytest.mark.fault
@netns.requires_root
@pytest.mark.parametrize("step", [0, 3, 9, 15, 25])
def test_k1_an_adoption_that_crashed_can_be_finished(
    host: Host, links: Links, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    before = picture(host)
    saved = crashed_adoption(links, step, monkeypatch)
    assert saved is not None
    with Links(host.path) as fresh:
        fresh.apply_bridge(bridge_plan(gateway=None))
        assert fresh.readopt_nic(saved) is True
        assert fresh.readopt_nic(saved) is True
        wait_for_echo(host, host.world_ip)
        assert [entry["dev"] for entry in host.json("ip -j route show default")] == [BRIDGE, BRIDGE]
        fresh.return_nic(saved)
        fresh.remove(BRIDGE)
    settle(host)
    assert picture(host) == before


@pytest.mark.e2e
@netns.requires_root
def test_a_step_that_the_kernel_refuses_gives_the_nic_back(
    host: Host, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(host)
    real, seen = nic._put, []

    def refused_once(rt: RouteSocket, saved: dict[str, Any], link: rtnl.Link) -> None:
        if not seen:
            seen.append(link.ifname)
            raise OSError("refused")
        real(rt, saved, link)

    monkeypatch.setattr(nic, "_put", refused_once)
    with pytest.raises(OSError, match="refused"):
        links.adopt_nic("up0", BRIDGE, no_journal)
    links.remove(BRIDGE)
    settle(host)
    assert picture(host) == before and seen == [BRIDGE]


@pytest.mark.e2e
@netns.requires_root
def test_adopting_again_after_a_restart_keeps_the_bridges_mac(host: Host, links: Links) -> None:
    saved = links.adopt_nic("up0", BRIDGE, no_journal)
    links.apply_bridge(bridge_plan(gateway=None))
    assert host.links()[BRIDGE]["address"] == saved["mac"]


@pytest.mark.e2e
@netns.requires_root
@pytest.mark.parametrize(
    ("prepare", "ifname", "message"),
    [
        ("true", "lo", "not an Ethernet interface"),
        ("ip link add br0 type bridge", "br0", "br0 is a bridge"),
        ("sh -c 'ip link add br0 type bridge; ip link set up0 master br0'", "up0", "already under br0"),
        ("ip tuntap add tun0 mode tun", "tun0", "not an Ethernet interface"),
        (
            "sh -c 'ip nexthop add id 7 via 203.0.113.9 dev up0; ip route add 10.99.0.0/16 nhid 7'",
            "up0",
            "nexthop object",
        ),
    ],
)
def test_what_cannot_go_under_a_bridge_is_told_and_left_alone(
    host: Host, links: Links, prepare: str, ifname: str, message: str
) -> None:
    host.run(prepare)
    before = picture(host)
    journal: list[object] = []
    with pytest.raises(Unsupported, match=message) as caught:
        links.adopt_nic(ifname, BRIDGE, journal.append)
    assert caught.value.fix and journal == [] and picture(host) == before


@pytest.mark.e2e
@netns.requires_root
def test_a_nic_that_does_not_exist_is_told(links: Links) -> None:
    with pytest.raises(InterfaceNotFound, match="no interface nic9"):
        links.adopt_nic("nic9", BRIDGE, no_journal)


# Without a kernel


def link(**fields: Any) -> rtnl.Link:
    return rtnl.Link(**{"ifindex": 5, "ifname": "wl0", "flags": 0, "mac": "02:00:00:00:00:05", **fields})


def test_a_wireless_nic_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wl0" / "phy80211").mkdir(parents=True)
    with pytest.raises(Unsupported, match="wireless"):
        nic.check_nic(link(), {}, lambda function: function(), sysfs=tmp_path)
    nic.check_nic(link(ifname="en0"), {}, lambda function: function(), sysfs=tmp_path)


def test_a_reboot_makes_the_journal_worthless() -> None:
    nic.give_back(None, None, {"boot_id": "of another boot"})  # type: ignore[arg-type]


def address(*members: bytes, flags: int = 0) -> dict[str, str]:
    raw = rtnl.IFADDR.pack(2, 24, flags, 0, 5) + b"".join(members)
    return {"text": "", "raw": moved.encode(raw)}


@pytest.mark.parametrize(
    ("valid_s", "elapsed_s", "left_s"),
    [
        (rtnl.LIFETIME_FOREVER, 10**6, rtnl.LIFETIME_FOREVER),
        (600, 100, 500),
        (600, 600, None),
        (600, 10**9, None),
    ],
)
def test_lifetimes_run_on_while_the_nic_is_away(
    monkeypatch: pytest.MonkeyPatch, valid_s: int, elapsed_s: int, left_s: int | None
) -> None:
    monkeypatch.setattr(moved.time, "clock_gettime", lambda clock: 1000.0 + elapsed_s)
    one = address(moved.attr(rtnl.IFA_CACHEINFO, rtnl.CACHEINFO.pack(valid_s, valid_s, 0, 0)))
    payload = moved.address_on(one, {"saved_at_s": 1000.0, "ifindex": 5}, link(ifindex=9))
    if left_s is None:
        assert payload == b""
    else:
        assert rtnl.CACHEINFO.unpack(payload[-16:])[:2] == (left_s, left_s)
        assert rtnl.IFADDR.unpack_from(payload)[4] == 9


def test_only_the_nics_own_hops_are_moved() -> None:

    hops = b"".join(struct.pack("=HBBi", 8, flags, 0, ifindex) for flags, ifindex in ((1, 5), (4, 6)))
    raw = rtnl.RTMSG.pack(2, 16, 0, 0, 254, 4, 0, 1, 0x11) + moved.attr(rtnl.RTA_MULTIPATH, hops)
    payload = moved.route_by({"text": "", "raw": moved.encode(raw)}, {"ifindex": 5}, link(ifindex=9))
    assert rtnl.hops(payload[rtnl.RTMSG.size + 4 :]) == [(9, 0), (6, 8)]
    assert payload[rtnl.RTMSG.size + 4 + 2] == 0 and payload[rtnl.RTMSG.size + 4 + 10] == 4
    assert rtnl.RTMSG.unpack_from(payload)[8] == 0
