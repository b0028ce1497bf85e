"""The kernel's neighbour table, asked for next hops and followed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

from arcbox_net.host.linux import next_hops
from arcbox_net.host.linux.next_hops import Ip, NextHops, Standing
from tests.support import netns
from tests.support.echo import wait_for_echo
from tests.support.netns import Host

pytestmark = [pytest.mark.e2e, netns.requires_root]

DEADLINE_S = 60.0
ROUTER4, ROUTER6, NOBODY = Host.world_ip, "fe80::1", f"{netns.WORLD_SUBNET}.77"
ON_LINK = ip_network(f"{netns.WORLD_SUBNET}.0/24")
MAC, OTHER_MAC, GIVEN_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as created:
        created.world.run(f"ip link set {created.uplink_peer} address {MAC}")
        created.world.run(f"ip -6 addr add {ROUTER6}/64 dev {created.uplink_peer} nodad")
        # The kernel's own patience, so that nobody waits for it here.
        for family in ("ipv4", "ipv6"):
            created.sysctl(f"net.{family}.neigh.{created.uplink}.retrans_time_ms", 100)
            created.sysctl(f"net.{family}.neigh.{created.uplink}.delay_first_probe_time", 1)
            created.sysctl(f"net.{family}.neigh.{created.uplink}.base_reachable_time_ms", 1000)
        yield created


class Followed:
    """What was told of each address, and the last of it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.told: dict[Ip, str | Standing] = {}
        self.history: list[tuple[str, str | Standing]] = []
        self._changed = asyncio.Event()
        self.next_hops = NextHops(self._note, netns=host.path)

    def _note(self, ip: Ip, said: str | Standing) -> None:
        self.told[ip] = said
        self.history.append((str(ip), said))
        self._changed.set()

    def watch(self, *hops: str) -> None:
        self.next_hops.watch(self.host.uplink, [ip_address(hop) for hop in hops], [ON_LINK])

    def of(self, ip: str) -> str | Standing:
        return self.told.get(ip_address(ip), Standing.UNKNOWN)

    async def expect(self, ip: str, said: str | Standing) -> None:
        async def come() -> None:
            while self.of(ip) != said:
                self._changed.clear()
                await self._changed.wait()

        try:
            await asyncio.wait_for(come(), DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"{ip} is not {said}: {self.history}") from None


def follow(host: Host, story: Callable[[Followed], Awaitable[None]]) -> None:
    async def run() -> None:
        followed = Followed(host)
        try:
            await story(followed)
        finally:
            followed.next_hops.stop()

    asyncio.run(run())


@pytest.mark.parametrize("hop", [ROUTER4, ROUTER6])
def test_the_kernel_is_asked_for_a_next_hop_that_it_does_not_know(host: Host, hop: str) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(hop)
        await seen.expect(hop, MAC)
        assert seen.history[0] == (hop, Standing.SOUGHT)

    follow(host, story)


def test_an_entry_that_gets_stale_is_confirmed_again_and_again(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        states: list[str] = []
        while states[-3:] != ["REACHABLE", "STALE", "REACHABLE"]:
            (entry,) = host.json(f"ip -j neigh show {ROUTER4}")
            (state,) = {"DELAY": ["STALE"], "PROBE": ["STALE"]}.get(entry["state"][0], entry["state"])
            if states[-1:] != [state]:
                states.append(state)
            await asyncio.sleep(0.02)
        assert seen.history == [(ROUTER4, Standing.SOUGHT), (ROUTER4, MAC)]

    follow(host, story)


def test_a_gateway_that_announces_another_mac_is_there_at_once(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        host.world.run(f"ip link set {host.uplink_peer} address {OTHER_MAC}")
        host.world.run(f"busybox arping -U -c 1 -I {host.uplink_peer} {ROUTER4}")
        await seen.expect(ROUTER4, OTHER_MAC)
        assert Standing.UNREACHABLE not in [said for _, said in seen.history]

    follow(host, story)


def test_who_does_not_answer_is_unreachable_until_it_does(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(NOBODY)
        await seen.expect(NOBODY, Standing.UNREACHABLE)
        host.world.run(f"ip addr add {NOBODY}/24 dev {host.uplink_peer}")
        await seen.expect(NOBODY, MAC)
        assert [said for _, said in seen.history] == [Standing.SOUGHT, Standing.UNREACHABLE, MAC]

    follow(host, story)


def test_a_permanent_entry_holds_for_a_next_hop_and_for_others_on_the_link(host: Host) -> None:
    async def story(seen: Followed) -> None:
        host.run(f"ip neigh add {ROUTER4} lladdr {GIVEN_MAC} dev {host.uplink} nud permanent")
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, GIVEN_MAC)
        host.run(f"ip neigh add {NOBODY} lladdr {GIVEN_MAC} dev {host.uplink} nud permanent")
        host.run(f"ip neigh add 198.51.100.1 lladdr {GIVEN_MAC} dev {host.uplink} nud permanent")
        await seen.expect(NOBODY, GIVEN_MAC)
        host.run(f"ip neigh replace {NOBODY} lladdr {OTHER_MAC} dev {host.uplink} nud permanent")
        await seen.expect(NOBODY, OTHER_MAC)
        host.run(f"ip neigh del {NOBODY} dev {host.uplink}")
        await seen.expect(NOBODY, Standing.UNKNOWN)
        host.run(f"ip neigh del {ROUTER4} dev {host.uplink}")
        await seen.expect(ROUTER4, MAC)
        assert seen.of("198.51.100.1") is Standing.UNKNOWN

    follow(host, story)


def test_a_neighbour_of_the_hosts_that_is_no_next_hop_is_not_told(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch()
        wait_for_echo(host, ROUTER4)
        host.run(f"ip neigh add {NOBODY} lladdr {GIVEN_MAC} dev {host.uplink} nud permanent")
        await seen.expect(NOBODY, GIVEN_MAC)
        assert seen.history == [(NOBODY, GIVEN_MAC)]

    follow(host, story)


def test_permanent_entries_are_told_up_to_a_limit(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_hops, "PERMANENT_MAX", 2)

    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        for last in (11, 12, 13):
            host.run(f"ip neigh add {netns.WORLD_SUBNET}.{last} lladdr {GIVEN_MAC} dev {host.uplink}")
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        assert sum(said == GIVEN_MAC for said in seen.told.values()) == 2
        host.run(f"ip neigh replace {ROUTER4} lladdr {GIVEN_MAC} dev {host.uplink} nud permanent")
        await seen.expect(ROUTER4, GIVEN_MAC)

    follow(host, story)


def test_what_is_no_next_hop_any_more_is_given_up(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        seen.watch(ROUTER6)
        await seen.expect(ROUTER4, Standing.UNKNOWN)
        await seen.expect(ROUTER6, MAC)

    follow(host, story)


def test_notices_that_were_lost_are_made_up_for(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        # The loop sleeps while the kernel says more than the socket has room for.
        host.run("ip link add v0 type veth peer name v1")
        host.run("ip link set v0 up")
        batch = "".join(
            f"neigh replace 198.18.{i // 256}.{i % 256} lladdr {GIVEN_MAC} dev v0 nud permanent\n"
            for i in range(5000)
        )
        host.run("ip -batch -", stdin=batch)
        host.run(f"ip neigh replace {ROUTER4} lladdr {OTHER_MAC} dev {host.uplink} nud permanent")
        await seen.expect(ROUTER4, OTHER_MAC)

    follow(host, story)


def test_an_interface_that_is_made_anew_is_followed_again(host: Host) -> None:
    async def story(seen: Followed) -> None:
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, MAC)
        host.run(f"ip link del {host.uplink}")
        host.run(f"ip link add {host.uplink} type veth peer name {host.uplink_peer} netns {host.world.name}")
        host.world.run(f"ip link set {host.uplink_peer} address {OTHER_MAC} up")
        host.world.run(f"ip addr add {ROUTER4}/24 dev {host.uplink_peer}")
        host.run(f"ip addr add {host.host_ip}/24 dev {host.uplink}")
        host.run(f"ip link set {host.uplink} up")
        seen.watch(ROUTER4)
        await seen.expect(ROUTER4, OTHER_MAC)

    follow(host, story)
