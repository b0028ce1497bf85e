"""The group commit, with a disk that is slow, full or gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from arcbox_net.errors import StateError
from arcbox_net.network.state import State
from arcbox_net.services.dhcp.commit import GATHER_S, GROUP_MAX, LeaseWriter
from arcbox_net.services.dhcp.messages import REQUEST
from arcbox_net.services.dhcp.records import LeaseChange
from arcbox_net.services.dhcp.server import Decision
from tests.services.dhcp.site import MAC_A, SERVER_ID, Site, ip, mac, request


class Disk:
    """Keeps what it is given. `open` is cleared to hold writes up, `error` is raised instead."""

    def __init__(self) -> None:
        self.groups: list[list[LeaseChange]] = []
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def commit_leases(self, changes: Sequence[LeaseChange]) -> None:
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        self.groups.append(list(changes))


def change(site: Site, number: int) -> LeaseChange:
    return site.table.allocate(f"port {number}", mac=mac(number), now=site.now)


def test_d11_the_gathering_window_is_at_most_five_milliseconds() -> None:
    assert 0 < GATHER_S <= 0.005


def test_changes_that_come_together_are_one_write() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)
        await asyncio.gather(*(writer.commit([change(site, n)]) for n in range(5)))
        assert [len(group) for group in disk.groups] == [5]
        await writer.close()

    asyncio.run(scenario())


def test_d11_nobody_is_told_before_the_disk_has_it() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        disk.open.clear()
        writer = LeaseWriter(site.table, disk)
        first = asyncio.create_task(writer.commit([change(site, 1)]))
        while not writer._writing:
            await asyncio.sleep(0)
        late = [asyncio.create_task(writer.commit([change(site, n)])) for n in (2, 3)]
        for _ in range(100):
            await asyncio.sleep(0)
        assert not first.done() and not any(task.done() for task in late) and writer.backlog == 3
        assert site.table.durable(int(ip(2))) is None
        disk.open.set()
        await asyncio.gather(first, *late)
        assert [len(group) for group in disk.groups] == [1, 2], "those that waited for the disk go together"
        assert site.table.durable(int(ip(4))) is not None
        await writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [StateError("full", path="x"), RuntimeError("a bug")])
def test_d13_a_refused_write_is_taken_back_and_told(error: Exception) -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)
        disk.error = error
        with pytest.raises(StateError):
            await writer.commit([change(site, 1)])
        assert site.table.view(site.now) == [] and writer.failures == 1
        disk.error = None
        await writer.commit([change(site, 2)])
        assert site.table.view(site.now)[0].mac == mac(2)
        await writer.close()

    asyncio.run(scenario())


def test_what_a_refused_write_left_is_written_with_the_next() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)
        disk.error = StateError("full", path="x")
        with pytest.raises(StateError):
            await writer.commit([site.table.allocate("a", ip=ip(7), now=site.now)])
        disk.error = None
        await writer.commit([change(site, 2)])
        assert [(str(c.ip)[-1], c.lease is None) for c in disk.groups[0]] == [("7", True), ("2", False)]
        await writer.close()

    asyncio.run(scenario())


def test_a_cancelled_caller_leaves_the_change_durable() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)
        task = asyncio.create_task(writer.commit([change(site, 1)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.close()
        assert len(disk.groups) == 1 and site.table.durable(int(ip(2))) is not None

    asyncio.run(scenario())


def test_a_group_has_a_limit() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)
        repeated = change(site, 1)
        site.table._unsettled[int(repeated.ip)] = GROUP_MAX + 10
        await asyncio.gather(*(writer.commit([repeated]) for _ in range(GROUP_MAX + 10)))
        assert [len(group) for group in disk.groups] == [GROUP_MAX, 10]
        await writer.close()

    asyncio.run(scenario())


def test_d21_a_thousand_clients_at_once_are_durable_after_two_writes(tmp_path: Path) -> None:
    site = Site(
        subnet=IPv4Network("192.168.64.0/22"),
        pool=(IPv4Address("192.168.64.2"), IPv4Address("192.168.67.254")),
    )
    state = State.open(tmp_path / "leases.db")

    def select(number: int) -> Decision:
        offer = site.send(request(1, chaddr=mac(number)))
        assert offer is not None
        chosen = request(REQUEST, chaddr=mac(number), wanted=offer.ip, server_id=SERVER_ID)
        return site.server.handle(chosen, mac(number), None, site.now)

    async def scenario() -> None:
        writer = LeaseWriter(site.table, state)
        await asyncio.gather(*(writer.commit(select(number).changes) for number in range(1000)))
        assert writer.groups == -(-1000 // GROUP_MAX)
        await writer.close()

    asyncio.run(scenario())
    state.close()
    kept = State.open(tmp_path / "leases.db")
    assert {lease.mac for lease in kept.leases()} == {mac(number) for number in range(1000)}
    kept.close()


def test_a_listener_that_fails_keeps_no_answer_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        writer = LeaseWriter(site.table, disk)

        def broken(change: LeaseChange) -> None:
            raise KeyError(change.ip)

        writer.on_durable = broken
        await asyncio.gather(*(writer.commit([change(site, n)]) for n in range(3)))
        await writer.close()

    asyncio.run(scenario())
    assert len(caplog.records) == 3


def test_names_that_begin_and_end_are_told_once_durable() -> None:
    async def scenario() -> None:
        site, disk = Site(), Disk()
        site.lease(MAC_A)
        writer = LeaseWriter(site.table, disk)
        told: list[LeaseChange] = []
        writer.on_durable = told.append
        await writer.commit([site.table.release(ip(2), site.now)])
        assert [lease.mac for lease in told[0].ended] == [MAC_A]
        await writer.close()

    asyncio.run(scenario())
