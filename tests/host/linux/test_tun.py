"""The TUNs of relay egress in a real kernel, and the policy routes that lead to them."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from arcbox_net.errors import KernelError, LimitReached
from arcbox_net.host.linux import policy, tun
from arcbox_net.host.linux.links import Links
from arcbox_net.host.plan import TUN_VNET_HDR_BYTES, RelayPlan, RelayShard, TunPlan, alias, tun_ifname
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

TUNGETIFF = 0x800454D2
TUNGETVNETHDRSZ = 0x800454D7
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000


@pytest.fixture
def tuns(links: Links) -> Iterator[list[int]]:
    fds = [links.create_tun(TunPlan("t1", tun_ifname(index))) for index in range(2)]
    yield fds
    for fd in fds:
        os.close(fd)


def relay(*indexes: int) -> RelayPlan:
    return RelayPlan(tuple(RelayShard(index, tun_ifname(index), 1, 2) for index in indexes))


def policies(host: Host, version: int) -> dict[str, str]:
    """Table by mark, of the rules there are."""
    rules = host.json(f"ip -{version} -j rule")
    return {rule["fwmark"]: rule["table"] for rule in rules if "fwmark" in rule}


def table(host: Host, version: int, number: int) -> list[tuple[str, str]]:
    """Type and device of each default route in a table."""
    shown = host.run(f"ip -{version} route show table {number}", check=False).stdout
    words = [line.split() for line in shown.splitlines()]
    return [("local" if "local" in line[:1] else "unicast", line[line.index("dev") + 1]) for line in words]


def test_a_tun_takes_segments_and_goes_with_its_fd(host: Host, links: Links) -> None:
    fd = links.create_tun(TunPlan("t1", "abx-out_0"))
    link = host.links()["abx-out_0"]
    assert (link["mtu"], link["txqlen"], link["qdisc"]) == (65520, tun.TUN_TXQUEUELEN, "noqueue")
    assert link["ifalias"] == alias("t1") and {"UP", "NOARP"} <= set(link["flags"])
    assert host.json("ip -j addr show abx-out_0")[0]["addr_info"] == []
    assert host.sysctl("net.ipv4.conf.abx-out_0.rp_filter") == "0"
    flags = struct.unpack_from("=16sH", fcntl.ioctl(fd, TUNGETIFF, bytes(40)))[1]
    assert flags & (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR) == IFF_TUN | IFF_NO_PI | IFF_VNET_HDR
    assert fcntl.ioctl(fd, TUNGETVNETHDRSZ, bytes(4)) == struct.pack("=i", TUN_VNET_HDR_BYTES)
    features = host.run("ethtool -k abx-out_0", check=False).stdout
    if features:
        assert "tx-tcp-segmentation: on" in features and "tx-checksum-ip-generic: on" in features
    assert not os.get_blocking(fd) and not os.get_inheritable(fd)
    os.close(fd)
    assert "abx-out_0" not in host.links()


def test_a_name_that_is_taken_is_refused_and_nothing_is_left(host: Host, links: Links) -> None:
    fd = links.create_tun(TunPlan("t1", "abx-out_0"))
    try:
        with pytest.raises(KernelError, match="abx-out_0"):
            links.create_tun(TunPlan("t1", "abx-out_0"))
    finally:
        os.close(fd)
    assert "abx-out_0" not in host.links()


@pytest.mark.parametrize("version", [4, 6])
def test_marks_lead_to_the_tuns_and_to_the_host_itself(
    host: Host, links: Links, tuns: list[int], version: int
) -> None:
    links.apply_policy(relay(0, 1))
    assert policies(host, version) == {"0x1": "100", "0x100": "200", "0x101": "201"}
    assert table(host, version, 100) == [("local", "lo")]
    assert table(host, version, 200) == [("unicast", "abx-out_0")]
    assert table(host, version, 201) == [("unicast", "abx-out_1")]
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "1"


@pytest.mark.parametrize("version", [4, 6])
def test_applying_twice_changes_nothing_and_another_plan_replaces_the_first(
    host: Host, links: Links, tuns: list[int], version: int
) -> None:
    links.apply_policy(relay(0, 1))
    before = host.run(f"ip -{version} rule").stdout + host.run(f"ip -{version} route show table all").stdout
    links.apply_policy(relay(0, 1))
    after = host.run(f"ip -{version} rule").stdout + host.run(f"ip -{version} route show table all").stdout
    assert after == before
    links.apply_policy(relay(1))
    assert policies(host, version) == {"0x1": "100", "0x101": "201"}


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_that_went_with_its_tun_comes_back(
    host: Host, links: Links, tuns: list[int], version: int
) -> None:
    links.apply_policy(relay(0, 1))
    os.close(tuns.pop())
    assert table(host, version, 201) == []
    tuns.append(links.create_tun(TunPlan("t1", tun_ifname(1))))
    links.apply_policy(relay(0, 1))
    assert table(host, version, 201) == [("unicast", "abx-out_1")]


@pytest.mark.parametrize("version", [4, 6])
def test_removal_leaves_other_rules_and_may_be_repeated(
    host: Host, links: Links, tuns: list[int], version: int
) -> None:
    host.run(f"ip -{version} rule add priority 50 from all lookup 77")
    links.apply_policy(relay(0, 1))
    links.remove_policy(relay(0, 1))
    links.remove_policy(relay(0, 1))
    assert policies(host, version) == {}
    assert "lookup 77" in host.run(f"ip -{version} rule").stdout
    assert [table(host, version, number) for number in (100, 200, 201)] == [[], [], []]


def test_there_are_as_many_shards_as_tables(links: Links) -> None:
    fds = [links.create_tun(TunPlan("t1", tun_ifname(index))) for index in range(policy.SHARDS_MAX)]
    try:
        links.apply_policy(relay(*range(policy.SHARDS_MAX)))
        with pytest.raises(LimitReached, match="relay threads"):
            links.apply_policy(relay(*range(policy.SHARDS_MAX + 1)))
    finally:
        for fd in fds:
            os.close(fd)


def test_a_marked_packet_of_64_kb_leaves_by_its_tun_in_one_piece(
    host: Host, links: Links, tuns: list[int]
) -> None:
    links.apply_policy(relay(0, 1))
    host.run("ip addr add 192.168.64.1/32 dev lo")

    def marked() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x101)
        return sock

    with host.call(marked) as sock:
        sock.sendto(bytes(65_000), ("8.8.8.8", 9))
    sizes = []
    while not sizes or max(sizes) < 60_000:
        sizes.append(len(os.read(tuns[1], 1 << 17)))  # BlockingIOError: it never came
    assert max(sizes) == TUN_VNET_HDR_BYTES + 20 + 8 + 65_000
