"""Two workers and the links between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_port import ALL_OFFLOADS, TestingPort
from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.port_binding import PortBinding
from arcbox_net.dataplane.switch import Switch
from arcbox_net.dataplane.worker import ALL_PORTS
from arcbox_net.dataplane.worker_group import WorkerGroup
from arcbox_net.errors import ConfigError, LimitReached
from arcbox_net.memory.pool import PacketPool
from tests.dataplane.test_worker import VERIFIED
from tests.support.patched import collect, eventually, numbered


@contextmanager
def linked(
    pool: PacketPool, *ports: TestingPort, link_capacity: int = 1024
) -> Iterator[tuple[WorkerGroup, list[int]]]:
    """A worker for each port, and a wire from each to the next."""
    patches = [Patch() for _ in ports]
    with WorkerGroup(patches, pool, spin_us=0, link_capacity=link_capacity) as group:
        numbers = [group.add(port) for port in ports]
        for patch, number, after in zip(patches, numbers, numbers[1:] + numbers[:1], strict=True):
            patch.lead(group.home(number), number, after)
        yield group, numbers
    for port in ports:
        port.taken()
    pool.close()


def test_frames_reach_ports_of_another_worker_in_order() -> None:
    pool = PacketPool(4096, 0)
    ports = [TestingPort(pool) for _ in range(3)]
    frames = numbered(500)
    with linked(pool, *ports) as (group, numbers):
        assert len({group.home(number) for number in numbers}) == 3
        for port in ports:
            port.put(frames)
        for port in ports:
            assert collect(port, 500) == frames


def test_large_frame_reaches_another_worker_with_its_header() -> None:
    pool = PacketPool(64, 16)
    ports = [TestingPort(pool, takes=ALL_OFFLOADS, frame_max=65_550, part_bytes=500) for _ in range(2)]
    frame = VERIFIED + bytes(range(256)) * 200
    with linked(pool, *ports):
        ports[0].put([frame], vnet=True)
        assert collect(ports[1], 1, vnet=True) == [frame]


def test_frames_above_a_links_capacity_are_dropped_and_counted() -> None:
    pool = PacketPool(1024, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with linked(pool, *ports, link_capacity=64) as (group, (here, there)):
        with group.home(there).paused():
            ports[0].put(numbered(65))
            eventually(lambda: group.home(here).counters()[there].drops == {PortDrop.PORT_DROP_RING: 1})
        assert collect(ports[1], 64) == numbered(64)


def test_frames_that_are_on_their_way_at_the_end_are_released() -> None:
    pool = PacketPool(1024, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with linked(pool, *ports) as (group, (here, there)), group.home(there).paused():
        ports[0].put(numbered(10))
        eventually(lambda: group.home(here).counters()[there].tx_frames == 10)
        group.stop()
        assert pool.stats()["small"]["held"] == 0


def test_without_buffers_frames_are_dropped_and_counted() -> None:
    pool = PacketPool(16, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with linked(pool, *ports) as (group, (here, there)):
        with group.home(there).paused():
            ports[0].put(numbered(12))
            eventually(lambda: group.home(here).counters()[there].drops.get(PortDrop.PORT_DROP_POOL))
        collect(ports[1], 1)


def test_removed_port_is_gone_from_every_worker_and_its_number_is_free() -> None:
    pool = PacketPool(1024, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with linked(pool, *ports) as (group, (here, there)):
        group.remove(there)
        ports[0].put(numbered(4))
        eventually(lambda: group.home(here).counters()[here].drops == {PortDrop.PORT_DROP_NOWHERE: 4})
        with pytest.raises(ConfigError):
            group.remove(there)
        assert group.add(ports[1]) == there
        ports[0].put(numbered(1))
        assert len(collect(ports[1], 1)) == 1


def test_group_has_as_many_ports_as_numbers_that_are_not_links() -> None:
    pool = PacketPool(64, 0)
    ports = [TestingPort(pool, capacity=2) for _ in range(ALL_PORTS - 1)]
    with WorkerGroup([Patch(), Patch()], pool) as group:
        assert [group.add(port) for port in ports[:-1]] == list(range(ALL_PORTS - 2))
        with pytest.raises(LimitReached):
            group.add(ports[-1])


def l2(to: int, source: int, number: int = 0) -> bytes:
    """A frame between the ports' MACs that is neither IP nor ARP."""
    macs = b"".join(bytes((2, 0, 0, 0, 0, one)) for one in (to, source))
    return (macs + b"\x88\xb5" + number.to_bytes(4, "big")).ljust(60, b"\0")


@contextmanager
def switched(*ports: TestingPort, pool: PacketPool) -> Iterator[tuple[WorkerGroup, list[int]]]:
    """A worker for each port, on one switch to everybody."""
    switches = [Switch() for _ in ports]
    Switch.join(switches)
    with WorkerGroup(switches, pool, spin_us=0) as group:
        numbers = []
        for port in ports:
            place = group.place()
            numbers.append(place.add(port, place.sink))
            switches[0].bind(group, numbers[-1], PortBinding("trusted", ipv4=None))
        yield group, numbers
    for port in ports:
        port.taken()
    pool.close()


def test_counters_of_all_workers_add_up() -> None:
    pool = PacketPool(4096, 0)
    ports = [TestingPort(pool) for _ in range(3)]
    with switched(*ports, pool=pool) as (group, numbers):
        ports[2].put([l2(0xFF, 2)])  # its MAC is learned
        for port in ports[:2]:
            assert collect(port, 1)
        for source in range(2):
            ports[source].put([l2(2, source, i) for i in range(500)])
        assert len(collect(ports[2], 1000)) == 1000
        expected = [(500, 1, {}), (500, 1, {}), (1, 1000, {})]

        def counted() -> list[tuple[int, int, dict[PortDrop, int]]]:
            rows = group.counters()
            return [
                (rows[number].rx_frames, rows[number].tx_frames, rows[number].drops) for number in numbers
            ]

        eventually(lambda: counted() == expected)


def test_drops_on_the_way_to_another_worker_are_the_ports() -> None:
    pool = PacketPool(16, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with switched(*ports, pool=pool) as (group, (here, there)):
        with group.home(there).paused():
            ports[0].put([l2(0xFF, 0, i) for i in range(12)])
            eventually(lambda: group.counters()[here].rx_frames == 12)
            with group.home(here).paused():  # the turn has ended
                dropped = group.counters()[there].drops[PortDrop.PORT_DROP_POOL]
        assert len(collect(ports[1], 12 - dropped)) == 12 - dropped
        eventually(lambda: group.counters()[there].tx_frames == 12 - dropped)


def test_what_a_switch_is_told_all_are_told() -> None:
    pool = PacketPool(64, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    with switched(*ports, pool=pool) as (group, (here, there)):
        Switch().unbind(group, here)
        ports[0].put([l2(0xFF, 0)])
        eventually(lambda: group.counters()[here].drops == {PortDrop.PORT_DROP_SOURCE_MAC: 1})
        ports[1].put([l2(0xFF, 1)])
        eventually(lambda: group.counters()[there].drops == {PortDrop.PORT_DROP_NOWHERE: 1})


def test_a_port_in_every_worker_is_one_to_who_counts() -> None:
    pool = PacketPool(64, 0)
    uplinks = [TestingPort(pool) for _ in range(2)]
    guest = TestingPort(pool)
    switches = [Switch() for _ in uplinks]
    Switch.join(switches)
    with WorkerGroup(switches, pool, spin_us=0) as group:
        uplink = group.add_everywhere(uplinks)
        switches[0].bind(group, uplink, PortBinding("uplink"))
        number = group.add(guest, home=1)
        switches[0].bind(group, number, PortBinding("trusted", ipv4=None))
        uplinks[0].put([l2(0xFF, 8)])
        uplinks[1].put([l2(0xFF, 9)])
        assert len(collect(guest, 2)) == 2
        guest.put([l2(8, 1)])
        assert collect(uplinks[1], 1) == [l2(8, 1)]  # by its own worker's
        assert uplinks[0].taken() == []
        eventually(lambda: group.counters()[uplink][:4:2] == (2, 1))
        group.remove(uplink)
        guest.put([l2(8, 1)])
        eventually(lambda: PortDrop.PORT_DROP_NOWHERE in group.counters()[number].drops)
    pool.close()


def test_frames_on_their_way_to_a_port_that_goes_are_not_its_successors() -> None:
    pool = PacketPool(1024, 0)
    ports = [TestingPort(pool) for _ in range(2)]
    successor = TestingPort(pool)
    with linked(pool, *ports) as (group, (here, there)):
        home = group.home(there)
        with home.paused():
            ports[0].put(numbered(10))
            eventually(lambda: group.home(here).counters()[there].tx_frames == 10)
            group.remove(there)
            assert group.add(successor, home=1) == there
        ports[0].put(numbered(11)[10:])
        assert collect(successor, 1) == numbered(11)[10:]
        assert successor.taken() == []
