"""The doors that relay egress opens for a network: as many as threads, with what the relay must know of it."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from types import SimpleNamespace
from typing import Any

import pytest

from arcbox_net.errors import PermissionDenied
from arcbox_net.recipes import relay
from arcbox_net.recipes.relay import RelayEgress
from arcbox_net.recipes.site import Layout
from tests.support.descriptors import open_descriptors

ADDRESS6 = IPv6Interface("fd00:1:2:3::1/64")


class FakeRelay:
    """An EgressRelay that notes what it is told, and owns its doors."""

    made: FakeRelay

    def __init__(self, doors: Any, **limits: int) -> None:
        self.doors, self.limits = list(doors), limits
        self.told: list[Any] = []
        FakeRelay.made = self

    def set_host_addresses(self, addresses: Any) -> None:
        self.told.append(list(addresses))

    def set_hairpin(self, tcp: Any, udp: Any) -> None:
        self.told.append((list(tcp), list(udp)))

    def start(self) -> None:
        self.told.append("start")

    def stop(self) -> None:
        for door in self.doors:
            for fd in door[:3]:
                if fd >= 0:
                    os.close(fd)


class FakeLinks:
    """Links whose TUNs are pipes; the one at *refused* cannot be made."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused = refused
        self.tuns: dict[str, int] = {}

    def create_tun(self, plan: Any) -> int:
        if len(self.tuns) == self.refused:
            raise PermissionDenied("/dev/net/tun cannot be opened", operation="open /dev/net/tun")
        fd = os.open("/dev/null", os.O_RDWR)
        self.tuns[plan.ifname] = fd
        return fd

    def owned(self) -> list[Any]:
        return [SimpleNamespace(ifname=ifname) for ifname in self.tuns]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(family: int, address: str, fds: list[int]) -> tuple[int, int]:
        listener = socket.create_server((address, 0), family=family)
        l4_port: int = listener.getsockname()[1]
        fds.append(listener.detach())
        return fds[-1], l4_port

    monkeypatch.setattr(relay, "EgressRelay", FakeRelay)
    monkeypatch.setattr(relay, "_listen", plain)  # transparent sockets need privileges


def egress(links: FakeLinks, threads: int = 2, address6: IPv6Interface | None = None) -> RelayEgress:
    layout = Layout(
        mode="nat",
        egress="relay",
        bridge="abx-dev",
        address=IPv4Interface("192.168.64.1/24"),
        router=IPv4Address("192.168.64.1"),
        owns_bridge=True,
        address6=address6,
        is_private=True,
    )
    site: Any = SimpleNamespace(network="dev", links=links, config=SimpleNamespace(mtu=9000))
    return RelayEgress(site, layout, threads)


def test_every_thread_has_a_door_that_knows_gateways_and_mtu() -> None:
    made = egress(FakeLinks(), threads=3, address6=ADDRESS6) if socket.has_ipv6 else egress(FakeLinks(), 3)
    made.open()
    try:
        assert [shard.tun_ifname for shard in made.plan.shards] == ["abx-out_0", "abx-out_1", "abx-out_2"]
        ports = [port for shard in made.plan.shards for port in (shard.tcp4_port, shard.tcp6_port)]
        assert len(set(ports)) == 6
        for door in FakeRelay.made.doors:
            assert (door.gateway4, door.gateway6, door.mtu) == ("192.168.64.1", str(ADDRESS6.ip), 9000)
    finally:
        made.stop()


def test_network_without_ipv6_has_no_ipv6_listener() -> None:
    made = egress(FakeLinks())
    made.open()
    try:
        assert [shard.tcp6_port for shard in made.plan.shards] == [0, 0]
        assert [(door.listener6_fd, door.gateway6) for door in FakeRelay.made.doors] == [(-1, None)] * 2
    finally:
        made.stop()


def test_door_that_cannot_be_opened_leaves_no_descriptor_open() -> None:
    before = open_descriptors()
    with pytest.raises(PermissionDenied):
        egress(FakeLinks(refused=1)).open()
    assert open_descriptors() == before


def test_relay_is_told_of_the_host_before_it_starts_and_of_each_change_once() -> None:
    made = egress(FakeLinks())
    made.open()
    try:
        made.set_host_addresses(["203.0.113.2", "127.0.0.1"])
        made.set_published([("203.0.113.2", 80)], [])
        made.start()
        made.set_host_addresses(["127.0.0.1", "203.0.113.2", "203.0.113.2"])
        told = FakeRelay.made.told
        at = told.index("start")
        assert ["127.0.0.1", "203.0.113.2"] in told[:at]
        assert ([("203.0.113.2", 80)], []) in told[:at]
        assert told[at + 1 :] == []
        made.set_host_addresses(["203.0.113.9"])
        assert told[at + 1 :] == [["203.0.113.9"]]
    finally:
        made.stop()


def test_missing_tun_is_noticed() -> None:
    links = FakeLinks()
    made = egress(links)
    made.open()
    try:
        assert made.is_whole()
        del links.tuns["abx-out_1"]
        assert not made.is_whole()
    finally:
        made.stop()
