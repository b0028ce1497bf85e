"""Who wakes whom: calls to the guest, kicks from it, and that none is lost."""

from __future__ import annotations

import os

import pytest

from arcbox_net.ports.vhost_user import port_messages
from arcbox_net.ports.vhost_user.features import Feature
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from tests.ports.vhost_user.guest import PLAIN, USUAL, Guest, descriptor, frame, guest, signalled

EVENT_IDX = USUAL | Feature.EVENT_IDX
both = pytest.mark.parametrize("features", [USUAL, EVENT_IDX], ids=["flags", "event index"])


def kick(one: Guest, index: int = 1) -> None:
    os.eventfd_write(one.kicks[index], 1)


@both
def test_guest_is_called_once_for_a_burst(features: int) -> None:
    with guest(features) as one:
        one.transmit(frame())
        one.transmit(frame())
        one.worker.receive()
        assert signalled(one.calls[1]) == 1
        one.worker.receive()
        assert signalled(one.calls[1]) == 0


def test_guest_that_wants_no_calls_gets_none() -> None:
    with guest() as one:
        one.transmit(frame())
        one.worker.receive()
        signalled(one.calls[1])
        one.rings[1].suppress_calls()
        one.transmit(frame())
        one.worker.receive()
        assert signalled(one.calls[1]) == 0


@pytest.mark.parametrize(("wanted", "called"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 0), (0xFFFF, 0)])
def test_guest_is_called_when_the_entry_is_used_that_it_named(wanted: int, called: int) -> None:
    with guest(EVENT_IDX) as one:
        one.transmit(frame())
        one.worker.receive()
        signalled(one.calls[1])
        one.rings[1].call_at(wanted)
        for _ in range(3):
            one.transmit(frame())
        one.worker.receive()
        assert signalled(one.calls[1]) == called


def test_frames_for_the_guest_are_shown_and_called_at_the_end_of_the_turn() -> None:
    with guest() as one:
        one.supply(256, 256)
        one.worker.send([(PLAIN, frame())], flush=False)
        one.worker.send([(PLAIN, frame())], flush=False)
        assert (one.rings[0].used_index, signalled(one.calls[0])) == (0, 0)
        one.worker.flush()
        assert (one.rings[0].used_index, signalled(one.calls[0])) == (2, 1)
        one.worker.flush()
        assert signalled(one.calls[0]) == 0


@both
def test_worker_that_sleeps_is_kicked_and_one_that_is_awake_is_not(features: int) -> None:
    with guest(features) as one:
        ring = one.rings[1]
        assert one.worker.arm()
        assert not ring.kicks_suppressed
        if features & Feature.EVENT_IDX:
            assert ring.kick_at == 0
        one.transmit(frame())
        kick(one)
        assert one.worker.kicked()
        assert one.worker.is_ready
        assert len(one.worker.receive()) == 1
        assert ring.kicks_suppressed == (not features & Feature.EVENT_IDX)
        if features & Feature.EVENT_IDX:
            assert ring.kick_at == 0, "stale: the guest need not kick for 65,535 entries"


@both
def test_every_kick_is_heard_though_nobody_reads_the_descriptor(features: int) -> None:
    with guest(features) as one:
        for _ in range(3):
            kick(one)
            assert one.worker.kicked()
            assert not one.worker.kicked()


@both
def test_worker_does_not_sleep_on_what_came_before_it_asked_for_kicks(features: int) -> None:
    with guest(features) as one:
        one.worker.arm()
        one.transmit(frame())
        assert not one.worker.arm()
        assert one.worker.is_ready
        one.worker.receive()
        assert one.worker.arm()
        if features & Feature.EVENT_IDX:
            assert one.rings[1].kick_at == 1


def test_v21_index_that_flips_at_each_look_costs_one_look_each() -> None:
    with guest(EVENT_IDX) as one:
        for _ in range(100):
            one.rings[1].set_index(1)
            assert not one.worker.arm()
            one.rings[1].set_index(0)
            assert one.worker.receive() == []
            assert one.worker.arm()
        assert one.fault is None


def test_v21_what_the_guest_writes_where_we_write_changes_nothing() -> None:
    with guest(EVENT_IDX) as one:
        ring = one.rings[1]
        for number in range(10):
            assert one.worker.arm()
            one.ram.write(ring.used, b"\xff\xff")
            one.ram.write(ring.used + 4 + 8 * ring.size, b"\x55\x55")
            one.transmit(frame(60, number))
            kick(one)
            assert one.worker.kicked()
            assert [body for _, body, _ in one.worker.receive()] == [frame(60, number)]
            assert ring.used_index == number + 1


@both
def test_kicks_of_receive_rings_wake_nobody(features: int) -> None:
    with guest(features) as one:
        one.supply(256)
        kick(one, 0)
        assert not one.worker.kicked()
        assert one.worker.watches == 1


@both
def test_new_call_descriptor_is_called_at_the_next_use_whatever_the_guest_asked_for(features: int) -> None:
    with guest(features) as one:
        one.transmit(frame())
        one.worker.receive()
        new = descriptor()
        payload = port_messages.RING_FD.pack(1, os.dup(new))
        assert one.tell(PortMessage.RING_CALL, payload) == 0
        one.rings[1].call_at(0x8000)
        one.transmit(frame())
        one.worker.receive()
        assert signalled(new) == 1
        os.close(new)


def test_new_kick_descriptor_replaces_the_old_one() -> None:
    with guest() as one:
        new = descriptor()
        assert one.tell(PortMessage.RING_KICK, port_messages.RING_FD.pack(1, os.dup(new))) == 0
        kick(one)
        assert not one.worker.kicked()
        os.eventfd_write(new, 1)
        assert one.worker.kicked()
        os.close(new)


def test_full_call_descriptor_that_blocks_does_not_stop_the_worker() -> None:
    with guest() as one:
        os.eventfd_write(one.calls[1], 0xFFFF_FFFF_FFFF_FFFE)
        os.set_blocking(one.calls[1], True)  # it is the port's, too
        for number in range(1, 4):
            one.transmit(frame())
            assert len(one.worker.receive()) == 1
            assert one.rings[1].used_index == number


def test_call_descriptor_stays_as_the_front_end_set_it() -> None:
    with guest() as one:
        os.set_blocking(one.calls[1], True)
        one.transmit(frame())
        one.worker.receive()
        assert os.get_blocking(one.calls[1])
        assert signalled(one.calls[1]) == 1


def test_guest_is_called_as_often_as_it_wants() -> None:
    with guest() as one:
        for _ in range(1000):
            one.transmit(frame())
            one.worker.receive()
            assert signalled(one.calls[1]) == 1
