"""Descriptors that ports have watched, ticks, and when a worker sleeps."""

from __future__ import annotations

import errno
import os
import socket
import struct

import pytest

from arcbox_net.dataplane._testing_port import UNWATCH, UP, WATCH, WATCHES_MAX, TestingPort
from arcbox_net.dataplane.worker import Worker
from tests.support.patched import Patched, collect, eventually, numbered, patched

MESSAGES = 50
READ, EDGE = 1 << 0, 1 << 31  # of abi/poller.h


def order(fd: int, events: int = READ) -> bytes:
    return struct.pack("=iI", fd, events)


def watch(wire: Patched, fd: int, events: int = READ) -> None:
    wire.worker.send(wire.left_number, WATCH, order(fd, events))


def turns_for_messages(worker: Worker) -> int:
    """How many turns the worker takes for MESSAGES messages, one after the other: one each, if it sleeps."""
    before = worker.totals().turns
    for _ in range(MESSAGES):
        worker.send(0, UP)
    return worker.totals().turns - before


def test_port_hears_of_its_descriptor_until_it_is_unwatched() -> None:
    fd, bell = os.pipe()
    with patched() as wire:
        watch(wire, fd, READ | EDGE)
        os.write(bell, b"1")
        eventually(lambda: wire.left.seen["events"] == 1)
        wire.worker.send(wire.left_number, UNWATCH, order(fd))
        os.write(bell, b"2")
        wire.worker.send(wire.left_number, UP)
        assert wire.left.seen["events"] == 1
        assert wire.worker.counters()[wire.left_number].wakeups == 1
    os.close(fd)
    os.close(bell)


def test_port_has_so_many_watches_and_no_more() -> None:
    fds = [fd for _ in range(WATCHES_MAX // 2) for fd in os.pipe()]
    with patched() as wire:
        for fd in fds[:-1]:  # one is the port's own
            watch(wire, fd)
        with pytest.raises(OSError) as refused:
            watch(wire, fds[-1])
        assert refused.value.errno == errno.ENOSPC
        wire.worker.send(wire.left_number, UNWATCH, order(fds[0]))
        watch(wire, fds[-1])
    for fd in fds:
        os.close(fd)


def test_what_cannot_be_watched_is_refused() -> None:
    with patched() as wire:
        for fd, refusals in ((-1, {errno.EBADF}), (wire.worker.counters_fd, {errno.EPERM, errno.ENOTSUP})):
            with pytest.raises(OSError) as refused:
                watch(wire, fd)
            assert refused.value.errno in refusals  # the second is macOS's word


def test_k9_hung_up_descriptor_that_its_port_ignores_does_not_keep_the_worker_awake() -> None:
    ours, theirs = socket.socketpair()
    with patched() as wire, ours:
        watch(wire, ours.fileno())
        theirs.close()
        eventually(lambda: wire.left.seen["events"] >= 1)
        assert turns_for_messages(wire.worker) <= 3 * MESSAGES
        assert wire.left.seen["events"] <= 3


def test_worker_sleeps_between_messages() -> None:
    with patched() as wire:
        assert turns_for_messages(wire.worker) <= 3 * MESSAGES


def test_worker_sleeps_again_after_large_frames_that_came_turn_after_turn() -> None:
    with patched() as wire:
        for number in range(50):
            frame = bytes([number]) * 1514
            wire.left.put([frame])
            assert collect(wire.right, 1) == [frame]
        assert turns_for_messages(wire.worker) <= 3 * MESSAGES


def test_removed_port_hears_nothing_more() -> None:
    fd, bell = os.pipe()
    with patched() as wire:
        watch(wire, fd)
        wire.worker.remove(wire.left_number)
        os.write(bell, b"1")
        wire.worker.send(wire.right_number, UP)
        assert wire.left.seen["events"] == 0
    os.close(fd)
    os.close(bell)


def test_ports_that_want_it_are_ticked_and_a_worker_without_them_does_not_wake() -> None:
    with patched() as still:
        before = still.worker.totals().turns
        with patched() as wire:
            ticked = TestingPort(wire.pool, ticks=True)
            number = wire.worker.add(ticked, wire.patch)
            eventually(lambda: ticked.seen["ticks"] >= 5)
            wire.worker.remove(number)
        assert still.worker.totals().turns <= before + 2  # it may have been falling asleep


@pytest.mark.parametrize("spin_us", [0, 50, 1_000_000])
def test_frames_pass_whether_the_worker_sleeps_or_spins(spin_us: int) -> None:
    with patched() as wire, Worker(wire.pool, spin_us=spin_us) as other:
        for number, port in ((wire.left_number, wire.left), (wire.right_number, wire.right)):
            wire.worker.remove(number)
            other.add(port, wire.patch)
        for frame in numbered(20):
            wire.left.put([frame])
            assert collect(wire.right, 1) == [frame]
