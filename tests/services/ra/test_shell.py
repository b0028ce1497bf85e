"""Advertisements on a real link, with the kernel of a guest as the client."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from ipaddress import IPv6Address, IPv6Interface, IPv6Network
from typing import Any, TypeVar

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptDNSSL, ICMPv6NDOptMTU, ICMPv6NDOptRDNSS

from arcbox_net.addresses import eui64_address, parse_mac
from arcbox_net.errors import ServiceError
from arcbox_net.host.linux.links import Links
from arcbox_net.services.ra.server import RaSettings
from arcbox_net.services.ra.shell import RaService
from tests.host.linux.plans import bridge_plan
from tests.support import netns
from tests.support.echo import wait_for_echo
from tests.support.netns import PATIENCE_S, Host, Namespace, wait_until

pytestmark = [pytest.mark.e2e, netns.requires_root]

SUBNET = IPv6Network("fd12:3456:789a::/64")
GATEWAY = IPv6Address("fd12:3456:789a::1")
ROUTER = IPv6Address("fe80::1")
MAC = "02:00:00:00:00:07"
T = TypeVar("T")


class Link(Host):
    """A bridge of ours, and a guest's interface that is down until `up`."""

    def __init__(self) -> None:
        super().__init__(world=False)
        self.make_bridge()
        self.guest = self.namespace("guest")
        self.run(f"ip link add p0 type veth peer name eth0 netns {self.guest.name}")
        self.run("ip link set p0 master abx-t1 up")
        self.guest.run(f"ip link set eth0 address {MAC}")
        self.guest.sysctl("net.ipv6.conf.eth0.accept_dad", 0)

    def make_bridge(self) -> None:
        with Links(self.path) as links:
            links.apply_bridge(bridge_plan(gateway6=IPv6Interface((GATEWAY, 64))))

    async def place(self, make: Callable[[], T], /) -> T:
        return self.call(make)

    @contextlib.asynccontextmanager
    async def serve(self, *, default_router: bool = False, mtu: int = 1400) -> AsyncIterator[RaService]:
        settings = RaSettings(
            subnet=SUBNET,
            mac=parse_mac(bridge_plan().mac),
            mtu=mtu,
            dns=(GATEWAY,),
            search=("t1.internal",),
        )
        service = RaService(
            settings,
            ifname="abx-t1",
            address=ROUTER,
            default_router=default_router,
            place=self.place,
        )
        await service.start()
        try:
            yield service
        finally:
            await service.stop()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


@pytest.fixture
def link() -> Iterator[Link]:
    with Link() as made:
        yield made


async def until(condition: Callable[[], T], message: str) -> T:
    """`wait_until` while the loop runs."""
    return await asyncio.get_running_loop().run_in_executor(
        None, lambda: wait_until(condition, message=message)
    )


def addresses(guest: Namespace) -> set[str]:
    links = guest.json("ip -6 -j addr show dev eth0 scope global")
    found = [address for link in links for address in link.get("addr_info", []) if address]
    return {address["local"] for address in found if not address.get("tentative")}


def routers(guest: Namespace) -> list[str]:
    return [route["gateway"] for route in guest.json("ip -6 -j route show default")]


def listen(guest: Namespace) -> socket.socket:
    """What the guest's kernel hears of ICMPv6, too."""
    heard = guest.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
    heard.settimeout(PATIENCE_S)
    return heard


def next_advertisement(heard: socket.socket) -> tuple[ICMPv6ND_RA, str]:
    while True:
        packet, source = heard.recvfrom(2048)
        if packet[0] == 134:
            return ICMPv6ND_RA(packet), source[0].partition("%")[0]


@in_loop
async def test_s1_a_kernel_configures_itself_and_gets_a_default_route(link: Link) -> None:
    async with link.serve(default_router=True) as service:
        link.guest.run("ip link set eth0 up")
        expected = str(eui64_address(SUBNET, parse_mac(MAC)))
        await until(lambda: expected in addresses(link.guest), "an address")
        await until(lambda: routers(link.guest) == ["fe80::1"], "a default route")
        await until(lambda: link.guest.sysctl("net.ipv6.conf.eth0.mtu") == "1400", "an MTU")
        wait_for_echo(link.guest, str(GATEWAY))
        assert service.stats()["solicitations"] >= 1
    await until(lambda: routers(link.guest) == [], "the route goes with the router")
    assert expected in addresses(link.guest)


@in_loop
async def test_a_default_route_comes_and_goes_with_the_hosts(link: Link) -> None:
    async with link.serve() as service:
        link.guest.run("ip link set eth0 up")
        await until(lambda: addresses(link.guest), "an address")
        assert routers(link.guest) == []
        service.set_default_router(True)
        await until(lambda: routers(link.guest) == ["fe80::1"], "a default route")
        service.set_default_router(False)
        await until(lambda: routers(link.guest) == [], "no default route")


@in_loop
async def test_an_advertisement_is_complete_and_comes_from_the_link(link: Link) -> None:
    with listen(link.guest) as heard:
        async with link.serve(mtu=1300):
            link.guest.run("ip link set eth0 up")
            found, source = await asyncio.get_running_loop().run_in_executor(None, next_advertisement, heard)
    assert source == str(ROUTER)
    assert found[ICMPv6NDOptMTU].mtu == 1300
    assert found[ICMPv6NDOptRDNSS].dns == [str(GATEWAY)]
    assert found[ICMPv6NDOptDNSSL].searchlist == ["t1.internal."]


@in_loop
async def test_solicitations_with_a_low_hop_limit_are_dropped_and_counted(link: Link) -> None:
    async with link.serve() as service:
        link.guest.run("ip link set eth0 up")
        await until(lambda: addresses(link.guest), "an address")
        with link.guest.call(
            lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        ) as sender:
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 64)
            index = link.guest.call(lambda: socket.if_nametoindex("eth0"))
            sender.sendto(b"\x85" + bytes(7), ("ff02::2", 0, 0, index))
            await until(lambda: service.stats().get("drop_hop-limit") == 1, "a drop")


@in_loop
async def test_rebind_serves_on_a_bridge_that_was_made_anew(link: Link) -> None:
    async with link.serve(default_router=True) as service:
        link.run("ip link del abx-t1")
        link.make_bridge()
        link.run("ip link set p0 master abx-t1")
        await service.rebind()
        link.guest.run("ip link set eth0 up")
        await until(lambda: routers(link.guest) == ["fe80::1"], "a default route")


@in_loop
async def test_s4_without_the_interface_or_its_address_the_error_says_so(link: Link) -> None:
    link.run("ip addr del fe80::1/64 dev abx-t1")
    with pytest.raises(ServiceError, match="abx-t1: Cannot assign requested address") as caught:
        async with link.serve():
            pass
    assert "link-local" in str(caught.value.fix)
    link.run("ip link del abx-t1")
    with pytest.raises(ServiceError, match="abx-t1: No such device"):
        async with link.serve():
            pass
