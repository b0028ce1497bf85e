"""Frames through a worker: their order, what is counted, ports that come and go, and what is left at the end."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import sys
from pathlib import Path

import pytest

from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane._testing_port import ALL_OFFLOADS, DOWN, HEAD_MAX, UP, TestingPort
from arcbox_net.dataplane.port import PortDrop
from arcbox_net.dataplane.worker import ALL_PORTS, DOZE_US, DOZE_US_MAX, Worker
from arcbox_net.errors import ConfigError, KernelError, LimitReached, NotRunning
from arcbox_net.memory.pool import PacketPool
from tests.support.descriptors import no_descriptors
from tests.support.patched import collect, eventually, numbered, patched

VERIFIED = bytes.fromhex("0200 0e00 0000 0000 0000 0000")  # a virtio-net header: the checksum was verified


def test_frames_arrive_in_order_both_ways() -> None:
    with patched() as wire:
        frames = numbered(1000)
        assert wire.left.put(frames) == wire.right.put(frames) == 1000
        assert collect(wire.right, 1000) == collect(wire.left, 1000) == frames


@pytest.mark.parametrize("size", [14, HEAD_MAX, HEAD_MAX + 1, 2048, 2049, 65_550])
@pytest.mark.parametrize("part_bytes", [0, 1, 1000])
def test_frame_of_any_shape_arrives_with_its_offload_header(size: int, part_bytes: int) -> None:
    pool = PacketPool(256, 16)
    ports = [TestingPort(pool, takes=ALL_OFFLOADS, frame_max=65_550, part_bytes=part_bytes) for _ in range(2)]
    frame = VERIFIED + os.urandom(size)
    with patched(*ports) as wire:
        wire.left.put([frame], vnet=True)
        assert collect(wire.right, 1, vnet=True) == [frame]


def test_frames_are_counted_where_they_come_in_and_go_out() -> None:
    with patched() as wire:
        wire.left.put(numbered(3, 100))
        collect(wire.right, 3)
        with wire.worker.paused():  # the turn has ended
            counted = wire.worker.counters()
        left, right = counted[wire.left_number], counted[wire.right_number]
        assert (left.rx_frames, left.rx_bytes, left.tx_frames, left.drops) == (3, 300, 0, {})
        assert (right.tx_frames, right.tx_bytes, right.rx_frames, right.drops) == (3, 300, 0, {})


def test_frames_for_a_port_whose_peer_is_away_are_dropped_and_counted() -> None:
    with patched() as wire:
        wire.worker.send(wire.right_number, DOWN)
        wire.left.put(numbered(5))
        eventually(lambda: wire.worker.counters()[wire.right_number].drops == {PortDrop.PORT_DROP_DOWN: 5})
        wire.worker.send(wire.right_number, UP)
        wire.left.put(numbered(1))
        assert len(collect(wire.right, 1)) == 1


def test_port_that_is_not_drained_loses_what_is_above_its_capacity() -> None:
    pool = PacketPool(256, 0)
    with patched(right=TestingPort(pool, capacity=64), left=TestingPort(pool)) as wire:
        frames = numbered(65)
        wire.left.put(frames)
        eventually(lambda: wire.worker.counters()[wire.right_number].drops == {PortDrop.PORT_DROP_FULL: 1})
        assert wire.right.taken() == frames[:64]


def test_frames_without_a_destination_are_counted_where_they_came_in() -> None:
    with patched() as wire:
        wire.worker.remove(wire.right_number)
        wire.left.put(numbered(2))
        eventually(lambda: wire.worker.counters()[wire.left_number].drops == {PortDrop.PORT_DROP_NOWHERE: 2})


def test_port_can_leave_and_come_back() -> None:
    with patched() as wire:
        wire.left.put(numbered(1))
        collect(wire.right, 1)
        wire.worker.remove(wire.right_number)
        assert wire.right.number is None
        assert wire.right_number not in wire.worker.counters()
        assert wire.worker.add(wire.right, wire.patch) == wire.right_number
        assert wire.worker.counters()[wire.right_number].tx_frames == 0
        wire.left.put(numbered(1))
        assert len(collect(wire.right, 1)) == 1


def test_frames_from_before_a_port_was_added_are_received() -> None:
    with patched() as wire:
        wire.worker.remove(wire.left_number)
        wire.left.put(numbered(2))
        wire.worker.add(wire.left, wire.patch)
        assert len(collect(wire.right, 2)) == 2


def test_port_is_in_one_worker() -> None:
    with patched() as wire, pytest.raises(ConfigError):
        wire.worker.add(wire.left, wire.patch)


def test_every_number_can_be_taken_and_no_more() -> None:
    pool, sink = PacketPool(64, 0), Patch()
    ports = [TestingPort(pool, capacity=2) for _ in range(ALL_PORTS + 1)]
    with Worker(pool) as worker:
        assert [worker.add(port, sink) for port in ports[:-1]] == list(range(ALL_PORTS))
        with pytest.raises(LimitReached):
            worker.add(ports[-1], sink)
        sink.lead(worker, 0, ALL_PORTS - 1)
        ports[0].put(numbered(1))
        assert len(collect(ports[ALL_PORTS - 1], 1)) == 1
        worker.remove(7)
        assert worker.add(ports[-1], sink) == 7


def test_number_can_be_chosen_while_it_is_free() -> None:
    pool, sink = PacketPool(64, 0), Patch()
    with Worker(pool) as worker:
        assert worker.add(TestingPort(pool), sink, number=ALL_PORTS - 1) == ALL_PORTS - 1
        for number in (ALL_PORTS - 1, ALL_PORTS, -1):
            with pytest.raises(ConfigError):
                worker.add(TestingPort(pool), sink, number=number)


def test_stop_closes_ports_once_and_releases_frames_that_wait() -> None:
    with patched() as wire:
        with wire.worker.paused():
            wire.left.put(numbered(100))
            wire.worker.stop()
        assert [port.seen["closes"] for port in (wire.left, wire.right)] == [1, 1]
        assert wire.pool.stats()["small"]["held"] == 0
        assert wire.left.number is None


def test_worker_leaves_no_descriptor_and_no_mapping() -> None:
    def held() -> tuple[int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
        return len(os.listdir("/dev/fd")), maps.count("arcbox-net-")

    before = held()
    with patched() as wire:
        assert held() > before
        wire.left.put(numbered(1))
        collect(wire.right, 1)
    del wire
    assert held() == before


def test_start_without_descriptors_says_so_and_can_be_tried_again() -> None:
    def reason(worker: Worker, spare: int) -> int | None:
        with no_descriptors(spare):
            try:
                worker.start()
            except KernelError as error:
                return error.facts["errno"]
        return None

    worker, spare = Worker(), itertools.count()
    reasons = list(iter(lambda: reason(worker, next(spare)), None))
    worker.stop()
    assert reasons and set(reasons) == {errno.EMFILE}


def test_stopped_worker_says_so() -> None:
    with patched() as wire:
        wire.worker.stop()
        wire.worker.stop()
        for call in (wire.worker.counters, wire.worker.events, lambda: wire.worker.send(0, UP)):
            with pytest.raises(NotRunning):
                call()
        with pytest.raises(NotRunning):
            wire.worker.add(wire.left, wire.patch)
        assert wire.left.number is None
        with pytest.raises(ConfigError):
            wire.worker.start()


@pytest.mark.parametrize("doze_us", [0, DOZE_US, DOZE_US_MAX])
def test_large_frames_turn_after_turn_arrive_in_order_however_long_the_worker_dozes(doze_us: int) -> None:
    with PacketPool(256, 16) as pool, Worker(pool, doze_us=doze_us) as worker:
        ports = [TestingPort(pool, frame_max=2000) for _ in range(2)]
        patch = Patch()
        patch.lead(worker, *[worker.add(port, patch) for port in ports])
        for _ in range(8):  # turns, as each burst is waited for; half as many lead to a doze
            frames = numbered(4, 2000)
            ports[0].put(frames)
            assert collect(ports[1], 4) == frames


@pytest.mark.parametrize("doze_us", [-1, DOZE_US_MAX + 1])
def test_a_doze_of_no_length_or_of_a_second_is_refused(doze_us: int) -> None:
    with pytest.raises(ConfigError):
        Worker(doze_us=doze_us)
