"""Kernel notifications as events, also when there are more than fit."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterator

import pytest

from arcbox_net.errors import KernelError
from arcbox_net.host.linux.monitor import Event, LinkMonitor
from arcbox_net.host.linux.rtnl import Link
from tests.support import netns
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

DEADLINE_S = 60.0


@pytest.fixture
def host() -> Iterator[Host]:
    with Host(world=False) as created:
        created.run("ip link add br0 type bridge")
        yield created


class Watched:
    """A monitor and the events it reported."""

    def __init__(self, host: Host, buffer_bytes: int = 1 << 20) -> None:
        self.events: list[Event] = []
        self.arrived = asyncio.Event()
        self.monitor = LinkMonitor(self._note, netns=host.path, buffer_bytes=buffer_bytes)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.arrived.set()

    async def expect(self, kind: str, ifname: str | None = None) -> Event:
        """The first event of that kind and interface; it is taken out."""

        async def search() -> Event:
            while True:
                for event in self.events:
                    if event.kind == kind and ifname in (None, event.ifname):
                        self.events.remove(event)
                        return event
                self.arrived.clear()
                await self.arrived.wait()

        try:
            return await asyncio.wait_for(search(), DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"no {kind} of {ifname} among {self.events}") from None

    async def agree(self, host: Host) -> None:
        """Until it knows the links that *host* has."""

        async def compare() -> None:
            while set(self.monitor.links) != set(host.links()):
                await asyncio.sleep(0.02)

        try:
            await asyncio.wait_for(compare(), DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"{set(self.monitor.links)} for {set(host.links())}") from None


def watch(host: Host, story: Callable[[Watched], Awaitable[None]], buffer_bytes: int = 1 << 20) -> None:
    async def run() -> None:
        watched = Watched(host, buffer_bytes)
        await watched.monitor.start()
        try:
            await story(watched)
        finally:
            await watched.monitor.stop()

    asyncio.run(run())


def test_k9_what_happens_to_a_link_is_told(host: Host) -> None:
    async def story(seen: Watched) -> None:
        host.run("ip link add v0 type veth peer name v1")
        assert (await seen.expect("link-added", "v0")).ifindex == host.links()["v0"]["ifindex"]
        host.run("ip link set v0 up")
        await seen.expect("link-up", "v0")
        host.run("ip link set v1 up")
        await seen.expect("carrier-up", "v0")
        host.run("ip link set v0 mtu 1400")
        changed = await seen.expect("mtu-changed", "v0")
        assert (changed.old, changed.detail) == ("1500", "1400")
        host.run("ip link set v0 address 02:00:00:00:00:42")
        assert (await seen.expect("mac-changed", "v0")).detail == "02:00:00:00:00:42"
        host.run("ip link set v0 master br0")
        assert (await seen.expect("master-changed", "v0")).detail == "br0"
        host.run("ip link set v0 nomaster")
        assert (await seen.expect("master-changed", "v0")).old == "br0"
        host.run("ip link set v0 down")
        await seen.expect("link-down", "v0")
        host.run("ip link set v0 name lan0")
        assert (await seen.expect("link-renamed", "lan0")).old == "v0"
        host.run("ip link del lan0")
        await seen.expect("link-removed", "lan0")
        await seen.expect("link-removed", "v1")
        assert set(seen.monitor.links) == {"lo", "br0"}

    watch(host, story)


def test_k9_addresses_and_routes_are_told(host: Host) -> None:
    async def story(seen: Watched) -> None:
        host.sysctl("net.ipv6.conf.br0.disable_ipv6", 1)
        host.run("ip link set br0 up")
        host.run("ip addr add 10.1.2.3/24 dev br0")
        assert (await seen.expect("address-added", "br0")).detail == "10.1.2.3/24"
        assert "10.1.2.0/24" in (await seen.expect("route-added", "br0")).detail
        host.run("ip route add default via 10.1.2.1")
        assert "default via 10.1.2.1 dev br0" in (await seen.expect("route-added", "br0")).detail
        host.run("ip route del default")
        assert "default via 10.1.2.1" in (await seen.expect("route-removed", "br0")).detail
        host.run("ip addr flush dev br0")
        assert (await seen.expect("address-removed", "br0")).detail == "10.1.2.3/24"

    watch(host, story)


def test_a_port_that_leaves_its_bridge_is_no_removed_link(host: Host) -> None:
    async def story(seen: Watched) -> None:
        host.run("ip link add v0 type veth peer name v1")
        host.run("ip link set v0 master br0")
        await seen.expect("master-changed", "v0")
        host.run("ip link set v0 nomaster")
        await seen.expect("master-changed", "v0")
        host.run("ip link set v0 up")
        await seen.expect("link-up", "v0")
        assert not [event for event in seen.events if event.kind == "link-removed"]
        assert "v0" in seen.monitor.links

    watch(host, story)


@pytest.mark.parametrize("refusals", [0, 1], ids=["listed-at-once", "listed-at-the-second-try"])
def test_k12_after_an_overrun_the_picture_equals_the_kernel(
    host: Host, refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = [KernelError("list kernel objects: they keep changing", errno=errno.EAGAIN)] * refusals

    async def story(seen: Watched) -> None:
        assert seen.monitor._notices is not None
        kernel = seen.monitor._notices.rt
        listing = kernel.links

        def links(**options: bool) -> list[Link]:
            if refused:
                raise refused.pop()
            return listing(**options)

        monkeypatch.setattr(kernel, "links", links)
        for index in range(40):  # the loop does not read meanwhile
            host.run(f"ip link add a{index} type veth peer name b{index}")
        host.run("ip link del a7")
        host.run("ip link set a8 name renamed")
        await seen.expect("resync")
        assert seen.monitor.overruns >= 1
        await seen.expect("link-added", "renamed")
        await seen.agree(host)
        host.run("ip link del a9")
        await seen.expect("link-removed", "a9")
        await seen.agree(host)

    watch(host, story, buffer_bytes=1)


def test_a_callback_that_fails_ends_nothing(host: Host) -> None:
    reported: list[object] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        seen = asyncio.Event()

        def callback(event: Event) -> None:
            if event.ifname == "v0":
                seen.set()
            raise RuntimeError("callback")

        monitor = LinkMonitor(callback, netns=host.path)
        await monitor.start()
        host.run("ip link set br0 up")
        host.run("ip link add v0 type veth peer name v1")
        await asyncio.wait_for(seen.wait(), DEADLINE_S)
        await monitor.stop()
        await monitor.stop()

    asyncio.run(run())
    assert len(reported) >= 2


def test_k9_200_rounds_of_trouble_are_followed(host: Host) -> None:
    script = "\n".join(
        f"link add t{index} type veth peer name u{index}\nlink set t{index} up\nlink set t{index} mtu 1300\n"
        f"link set t{index} down\nlink set t{index} name r{index}\nlink del r{index}"
        for index in range(200)
    )

    async def story(seen: Watched) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            None, lambda: host.run("ip -batch -", stdin=script + "\nlink set br0 up\n")
        )
        await seen.expect("link-up", "br0")
        await seen.agree(host)

    watch(host, story)
