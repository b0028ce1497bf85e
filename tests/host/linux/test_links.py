"""Bridges and veth pairs in a real kernel: what they look like, whose they are, and what stays behind."""

from __future__ import annotations

import errno
import os
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from arcbox_net.errors import ConfigError, InterfaceNotFound, KernelError, NamespaceNotFound
from arcbox_net.host.linux import tap
from arcbox_net.host.linux.links import Links
from arcbox_net.host.linux.namespace import in_netns, open_netns
from arcbox_net.host.linux.ownership import LINK_GROUP
from arcbox_net.host.plan import alias, bridge_ifname
from tests.host.linux.plans import GATEWAY, bridge_plan, tap_plan, veth_plan
from tests.support import netns
from tests.support.descriptors import open_descriptors
from tests.support.echo import wait_for_echo
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]


def bridge_info(host: Host, ifname: str = "abx-t1") -> dict[str, object]:
    return dict(host.links()[ifname]["linkinfo"]["info_data"])


def test_a_bridge_forwards_at_once_and_learns_no_multicast(host: Host, links: Links) -> None:
    ifindex = links.apply_bridge(bridge_plan())
    link = host.links()["abx-t1"]
    assert (link["ifindex"], link["mtu"], link["txqlen"]) == (ifindex, 1500, 10_000)
    assert link["ifalias"] == alias("t1") and link["address"] == bridge_plan().mac
    assert "UP" in link["flags"]
    info = bridge_info(host)
    assert (info["forward_delay"], info["stp_state"], info["mcast_snooping"]) == (0, 0, 0)


def test_a_bridge_has_its_gateway_address_and_no_ipv6(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    (link,) = host.json("ip -j addr show abx-t1")
    assert [(a["family"], a["local"], a["prefixlen"]) for a in link["addr_info"]] == [
        ("inet", "192.168.64.1", 24)
    ]
    assert host.sysctl("net.ipv6.conf.abx-t1.disable_ipv6") == "1"


def test_where_proc_is_read_only_there_is_still_no_ipv6_address(
    host: Host, links: Links, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refused)
    links.apply_bridge(bridge_plan())
    assert host.links()["abx-t1"]["inet6_addr_gen_mode"] == "none"
    (link,) = host.json("ip -j addr show abx-t1")
    assert [address["family"] for address in link["addr_info"]] == ["inet"]


def test_applying_a_plan_again_changes_nothing(host: Host, links: Links) -> None:
    first = links.apply_bridge(bridge_plan())
    before = host.run("ip -d addr show abx-t1").stdout.split()
    assert links.apply_bridge(bridge_plan()) == first
    after = host.run("ip -d addr show abx-t1").stdout.split()
    timer = before.index("gc_timer") + 1
    assert [*after[:timer], *after[timer + 1 :]] == [*before[:timer], *before[timer + 1 :]]


def test_an_adopted_bridge_is_put_right(host: Host, links: Links) -> None:
    first = links.apply_bridge(bridge_plan())
    host.run("ip link set abx-t1 down mtu 1400 address 02:00:00:00:00:99 type bridge stp_state 1")
    host.run("ip addr add 10.9.9.9/8 dev abx-t1")
    other = IPv4Interface("192.168.65.1/25")
    assert links.apply_bridge(bridge_plan(gateway=other)) == first
    (link,) = host.json("ip -d -j addr show abx-t1")
    assert (link["mtu"], link["address"]) == (1500, bridge_plan().mac) and "UP" in link["flags"]
    assert [(a["local"], a["prefixlen"]) for a in link["addr_info"]] == [("192.168.65.1", 25)]
    assert bridge_info(host)["stp_state"] == 0


@pytest.mark.parametrize("mtu", [1280, 1500, 9000, 65535])
def test_a_bridges_mtu_does_not_follow_its_ports(host: Host, links: Links, mtu: int) -> None:
    links.apply_bridge(bridge_plan(mtu=mtu))
    host.run("ip link add v0 mtu 1000 type veth peer name v1")
    host.run("ip link set v0 master abx-t1 up")
    assert host.links()["abx-t1"]["mtu"] == mtu


def test_a_bridges_mac_does_not_follow_its_ports(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    host.run("ip link add v0 address 00:00:00:00:00:01 type veth peer name v1")
    host.run("ip link set v0 master abx-t1 up")
    assert host.links()["abx-t1"]["address"] == bridge_plan().mac


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("ip link add abx-t1 type bridge", id="bridge"),
        pytest.param("ip link add abx-t1 type veth peer name v1", id="veth"),
        pytest.param(
            f"sh -c 'ip link add abx-t1 group {LINK_GROUP} type bridge; ip link set abx-t1 alias mine'",
            id="our-group-other-alias",
        ),
    ],
)
def test_a_foreign_link_with_our_name_is_refused_and_kept(host: Host, links: Links, command: str) -> None:
    host.run(command)
    before = host.links()["abx-t1"]
    with pytest.raises(KernelError, match="not this network's") as caught:
        links.apply_bridge(bridge_plan())
    assert caught.value.fix
    with pytest.raises(KernelError):
        links.remove("abx-t1")
    assert host.links()["abx-t1"] == before
    assert links.owned() == []


def test_another_networks_bridge_is_refused(links: Links) -> None:
    links.apply_bridge(bridge_plan())
    with pytest.raises(KernelError, match="not this network's"):
        links.apply_bridge(
            bridge_plan("t2").__class__(network="t2", ifname="abx-t1", mtu=1500, mac=bridge_plan().mac)
        )


def test_k2_a_bridge_whose_maker_died_before_naming_it_is_ours(host: Host, links: Links) -> None:
    host.run(f"ip link add abx-t1 group {LINK_GROUP} mtu 1499 type bridge")
    assert [(link.ifname, link.network) for link in links.owned("t1")] == [("abx-t1", "")]
    assert links.owned("t") == []
    links.apply_bridge(bridge_plan())
    assert [(link.ifname, link.network) for link in links.owned("t1")] == [("abx-t1", "t1")]


def test_removing_what_is_not_there_says_so(links: Links) -> None:
    links.apply_bridge(bridge_plan())
    assert links.remove("abx-t1") is True
    assert links.remove("abx-t1") is False


def test_a_missing_bridge_is_told_with_those_there_are(host: Host, links: Links) -> None:
    with pytest.raises(InterfaceNotFound, match="no bridge br9") as caught:
        links.find_bridge("br9")
    assert "ip link add br9 type bridge" in str(caught.value.fix)
    host.run("ip link add br0 type bridge")
    with pytest.raises(InterfaceNotFound, match="lo is not a bridge") as caught:
        links.find_bridge("lo")
    assert caught.value.fix == "bridges on this host: br0"
    assert links.find_bridge("br0") == host.links()["br0"]["ifindex"]


def test_two_networks_see_only_their_own(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan("one"))
    links.apply_bridge(bridge_plan("two", gateway=IPv4Interface("192.168.65.1/24")))
    fds = links.create_tap(tap_plan("one")) + links.create_tap(tap_plan("two"))
    assert {link.ifname for link in links.owned("one")} == {"abx-one", tap_plan("one").ifname}
    for link in links.owned("one"):
        links.remove(link.ifname)
    assert {link.network for link in links.owned()} == {"two"}
    tap.close_all(fds)


# veth


def test_a_veth_guest_is_configured_and_reaches_the_gateway(host: Host, links: Links) -> None:
    guest = host.namespace("guest")
    guest.run("ip link set lo down")
    links.apply_bridge(bridge_plan())
    plan = veth_plan(
        address=IPv4Interface("192.168.64.9/24"), gateway=IPv4Address("192.168.64.1"), isolated=True
    )
    fd = guest.open()
    links.create_veth(plan, fd)
    os.close(fd)
    inside = guest.links()
    assert inside["eth0"]["address"] == plan.mac and inside["eth0"]["mtu"] == 1500
    assert "UP" in inside["lo"]["flags"]
    assert guest.json("ip -j route show default")[0]["gateway"] == "192.168.64.1"
    outside = host.links()[plan.ifname]
    assert outside["ifalias"] == alias("t1", "p1") and outside["txqlen"] == 10_000
    flags = outside["linkinfo"]["info_slave_data"]
    assert (flags["isolated"], flags["learning"], flags["flood"]) == (True, False, False)
    assert host.sysctl(f"net.ipv6.conf.{plan.ifname}.disable_ipv6") == "1"
    wait_for_echo(guest, "192.168.64.1")
    assert links.link_stats()[plan.ifname].rx_packets > 0
    links.remove(plan.ifname)
    assert "eth0" not in guest.links()


def test_a_port_that_may_send_as_others_learns_and_floods(host: Host, links: Links) -> None:
    guest = host.namespace("guest")
    links.apply_bridge(bridge_plan())
    links.create_veth(veth_plan(anti_spoof=False), fd := guest.open())
    os.close(fd)
    flags = host.links()[veth_plan().ifname]["linkinfo"]["info_slave_data"]
    assert (flags["isolated"], flags["learning"], flags["flood"]) == (False, True, True)


@pytest.mark.parametrize(
    ("spoil", "fields"),
    [
        pytest.param("ip link add eth0 type veth peer name x0", {}, id="name-taken"),
        pytest.param("true", {"gateway": IPv4Address("10.99.0.1")}, id="gateway-unreachable"),
        pytest.param("true", {"bridge": "abx-none"}, id="no-bridge"),
    ],
)
def test_a_veth_that_fails_leaves_nothing(
    host: Host, links: Links, spoil: str, fields: dict[str, object]
) -> None:
    guest = host.namespace("guest")
    guest.run("ip link set lo down")
    guest.run(spoil)
    links.apply_bridge(bridge_plan())
    before = sorted(host.links()), guest.links()
    fd = guest.open()
    with pytest.raises((KernelError, InterfaceNotFound)):
        links.create_veth(veth_plan(**{"address": IPv4Interface("192.168.64.9/24"), **fields}), fd)
    os.close(fd)
    assert (sorted(host.links()), guest.links()) == before


def test_the_networks_own_namespace_is_no_guest(host: Host, links: Links) -> None:
    links.apply_bridge(bridge_plan())
    fd = host.open()
    with pytest.raises(ConfigError, match="the network's own"):
        links.create_veth(veth_plan(), fd)
    with pytest.raises(ConfigError, match="the network's own"):
        host.call(lambda: Links().create_veth(veth_plan(), fd))
    os.close(fd)


def test_200_veth_pairs_leave_links_and_fds_flat(host: Host, links: Links) -> None:
    guest = host.namespace("guest")
    links.apply_bridge(bridge_plan())
    before = open_descriptors(), sorted(host.links()), sorted(guest.links())
    for round_ in range(200):
        fd = guest.open()
        links.create_veth(veth_plan(index=round_), fd)
        os.close(fd)
        assert links.remove(veth_plan(index=round_).ifname)
    assert (open_descriptors(), sorted(host.links()), sorted(guest.links())) == before


# Conflicts


def conflict_texts(links: Links, subnet: str, *ignore: str) -> list[str]:
    return [str(clash) for clash in links.conflicts(IPv4Network(subnet), ignore)]


def test_a_clash_is_named_by_route_and_interface(host: Host, links: Links) -> None:
    host.run("ip link add v0 type veth peer name v1")
    host.run("ip addr add 10.20.0.7/16 dev v0")
    host.run("ip link set v0 up")
    host.run("ip route add 10.30.0.0/24 via 10.20.0.1 dev v0 metric 50 onlink")
    assert conflict_texts(links, "10.20.5.0/24") == [
        "10.20.0.0/16 dev v0 proto kernel scope link src 10.20.0.7",
        "address 10.20.0.7/16 dev v0",
    ]
    assert conflict_texts(links, "10.0.0.0/8")[-1] == "address 10.20.0.7/16 dev v0"
    assert "10.30.0.0/24 via 10.20.0.1 dev v0 proto boot metric 50" in conflict_texts(links, "10.30.0.0/25")
    assert links.conflicts(IPv4Network("10.30.0.0/25"))[0].ifname == "v0"


def test_default_routes_and_ignored_links_do_not_clash(host: Host, links: Links) -> None:
    host.run("ip link add v0 type veth peer name v1")
    host.run("ip addr add 203.0.113.5/24 dev v0")
    host.run("ip link set v0 up")
    for target in ("default", "0.0.0.0/1", "128.0.0.0/1"):
        host.run(f"ip route add {target} via 203.0.113.1 dev v0 onlink")
    assert conflict_texts(links, "192.168.64.0/24") == []
    links.apply_bridge(bridge_plan())
    assert len(conflict_texts(links, "192.168.64.0/24")) == 2
    assert conflict_texts(links, "192.168.64.0/24", bridge_ifname("t1")) == []


def test_routes_of_other_tables_and_without_interface_clash(host: Host, links: Links) -> None:
    host.run("ip route add blackhole 10.40.0.0/16")
    host.run("ip route add unreachable 10.41.0.0/16 table 77")
    assert conflict_texts(links, "10.40.1.0/24") == ["blackhole 10.40.0.0/16 proto boot"]
    assert conflict_texts(links, "10.41.1.0/24") == ["unreachable 10.41.0.0/16 table 77 proto boot"]


# Somebody else changes them (K9)


def test_k9_a_deleted_bridge_comes_back_with_its_ports(host: Host, links: Links) -> None:
    plan = tap_plan(isolated=True)
    links.apply_bridge(bridge_plan())
    fds = links.create_tap(plan)
    for _ in range(20):
        host.run("ip link del abx-t1")
        links.apply_bridge(bridge_plan())
        links.apply_port(plan)
    port = host.links()[plan.ifname]
    flags = port["linkinfo"]["info_slave_data"]
    assert port["master"] == "abx-t1"
    assert (flags["isolated"], flags["learning"], flags["flood"]) == (True, False, False)
    assert any(
        entry["mac"] == plan.mac and "static" in entry["state"]
        for entry in host.json(f"bridge -j fdb show dev {plan.ifname}")
    )
    assert links.addresses("abx-t1") == [GATEWAY]
    tap.close_all(fds)


def test_k9_a_renamed_link_gets_its_name_back(host: Host, links: Links) -> None:
    first = links.apply_bridge(bridge_plan())
    fds = links.create_tap(tap_plan())
    host.run("ip link set abx-t1 name stolen")
    host.run(f"ip link set {tap_plan().ifname} down name stolen2 mtu 1300")
    assert links.apply_bridge(bridge_plan()) == first
    links.apply_port(tap_plan())
    assert {link.ifname for link in links.owned("t1")} == {"abx-t1", tap_plan().ifname}
    assert all(link.up and link.mtu == 1500 for link in links.owned("t1"))
    tap.close_all(fds)


def test_k9_a_port_that_is_gone_is_told(links: Links) -> None:
    links.apply_bridge(bridge_plan())
    with pytest.raises(InterfaceNotFound, match=r"port p1: its interface \S+ is gone"):
        links.apply_port(tap_plan())


# Namespaces


def test_namespaces_open_by_name_path_and_pid(host: Host) -> None:
    sleeper = host.popen("sleep 60")
    netns.wait_until(lambda: sleeper.pid in host.pids())
    for path, pid in ((host.name, None), (host.path, None), (None, sleeper.pid)):
        fd = open_netns(path, pid)
        assert in_netns(fd, lambda: os.stat("/proc/thread-self/ns/net").st_ino) == os.fstat(fd).st_ino
        os.close(fd)
    sleeper.kill()
    sleeper.wait()


@pytest.mark.parametrize(
    ("path", "pid"),
    [
        ("abxt-missing", None),
        ("/etc/hostname", None),
        ("/proc/self/ns/uts", None),
        (None, 2**22 + 1),
        ("/etc/x/y", None),
    ],
)
def test_what_is_no_namespace_is_told(path: str | None, pid: int | None) -> None:
    with pytest.raises(NamespaceNotFound) as caught:
        open_netns(path, pid)
    assert caught.value.fix


def test_a_failure_inside_a_namespace_reaches_the_caller(host: Host) -> None:
    fd = host.open()
    with pytest.raises(ZeroDivisionError):
        in_netns(fd, lambda: 1 // 0)
    os.close(fd)
    with pytest.raises(OSError, match="enter network namespace"):
        in_netns(os.open("/", os.O_RDONLY), lambda: None)
