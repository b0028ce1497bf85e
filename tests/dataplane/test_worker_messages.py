"""What control and a worker say to each other: messages, answers, events, a pause."""

from __future__ import annotations

import errno
import select
import struct
import threading

import pytest

from arcbox_net.dataplane._testing_port import DIE, DOWN, REPORT, UP, TestingPort
from arcbox_net.dataplane.worker import ANSWER, DEAD, EVENTS_MAX, PAYLOAD_MAX, POSTS, Worker
from arcbox_net.dataplane.worker_views import WorkerEvent
from arcbox_net.errors import ConfigError, LimitReached
from tests.support.patched import PATIENCE_S, collect, eventually, numbered, patched

SENDERS = 4
SENDS = 200


def report(kind: int, value: int) -> bytes:
    return struct.pack("=IIq", kind, 0, value)


def wait_for_event(worker: Worker) -> list[WorkerEvent]:
    assert select.select([worker.event_fd], [], [], PATIENCE_S)[0], "no event came"
    return worker.events()


@pytest.mark.parametrize(
    ("number", "kind", "refusal"),
    [
        pytest.param(0, 299, errno.EINVAL, id="a kind that the port does not know"),
        pytest.param(0, 199, errno.EINVAL, id="a kind that its receiver does not know"),
        pytest.param(9, UP, errno.ENODEV, id="a number that nobody has"),
        pytest.param(256, UP, errno.EINVAL, id="a number that nobody can have"),
    ],
)
def test_message_that_cannot_be_carried_out_is_refused(number: int, kind: int, refusal: int) -> None:
    with patched() as wire:
        with pytest.raises(OSError) as refused:
            wire.worker.send(number, kind)
        assert refused.value.errno == refusal


@pytest.mark.parametrize("kind", [0, 1, 99, 0x10000])
def test_kinds_of_the_worker_itself_cannot_be_sent(kind: int) -> None:
    with patched() as wire, pytest.raises(ConfigError):
        wire.worker.send(0, kind)


def test_payload_has_a_limit() -> None:
    with patched() as wire:
        wire.worker.send(wire.left_number, UP, bytes(PAYLOAD_MAX))
        with pytest.raises(ConfigError):
            wire.worker.send(wire.left_number, UP, bytes(PAYLOAD_MAX + 1))


def test_answer_to_a_post_comes_as_an_event_with_its_ticket() -> None:
    with patched() as wire:
        good, bad = wire.worker.post(wire.left_number, UP), wire.worker.post(9, UP)
        eventually(lambda: wire.worker.totals().messages >= 6, "six messages")
        assert wire.worker.events() == [
            WorkerEvent(wire.left_number, ANSWER, 0, good),
            WorkerEvent(9, ANSWER, -errno.ENODEV, bad),
        ]


def test_posts_whose_answers_are_not_taken_have_a_limit() -> None:
    with patched() as wire:
        for _ in range(POSTS):
            wire.worker.post(wire.left_number, UP)
        with pytest.raises(LimitReached):
            wire.worker.post(wire.left_number, UP)
        wire.worker.send(wire.left_number, UP)  # has its own way back
        assert len(wire.worker.events()) == POSTS
        wire.worker.post(wire.left_number, UP)


def test_threads_that_send_at_once_each_get_their_own_answers() -> None:
    wrong: list[object] = []

    def send(worker: Worker, number: int) -> None:
        for _ in range(SENDS):
            try:
                worker.send(number, UP)
                answer = 0
            except OSError as refused:
                answer = refused.errno
            if answer != (0 if number < 2 else errno.ENODEV):
                wrong.append((number, answer))

    with patched() as wire:
        threads = [threading.Thread(target=send, args=(wire.worker, number)) for number in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_port_reports_to_control() -> None:
    with patched() as wire:
        wire.worker.send(wire.right_number, REPORT, report(333, -5))
        assert wait_for_event(wire.worker) == [WorkerEvent(wire.right_number, 333, -5, 0)]
        assert not select.select([wire.worker.event_fd], [], [], 0)[0]


def test_reports_for_which_control_leaves_no_room_are_counted() -> None:
    with patched() as wire:
        for value in range(EVENTS_MAX - POSTS + 1):
            wire.worker.send(wire.left_number, REPORT, report(333, value))
        assert wire.worker.totals().reports_lost == 1
        assert [event.value for event in wire.worker.events()] == list(range(EVENTS_MAX - POSTS))


def test_death_is_reported_even_when_there_was_no_room_at_first() -> None:
    with patched() as wire:
        for value in range(EVENTS_MAX - POSTS):
            wire.worker.send(wire.left_number, REPORT, report(333, value))
        wire.worker.send(wire.right_number, DIE)
        eventually(lambda: wire.right.seen["closes"] == 1)
        assert all(event.kind == 333 for event in wire.worker.events())
        assert wait_for_event(wire.worker) == [WorkerEvent(wire.right_number, DEAD, 0, 0)]


def test_dead_port_is_closed_and_keeps_its_number_until_it_is_removed() -> None:
    with patched() as wire:
        wire.worker.send(wire.left_number, DIE)
        assert wait_for_event(wire.worker) == [WorkerEvent(wire.left_number, DEAD, 0, 0)]
        assert wire.left.seen["closes"] == 1
        with pytest.raises(OSError, match=r"No such device"):
            wire.worker.send(wire.left_number, UP)
        assert wire.worker.add(TestingPort(wire.pool), wire.patch) != wire.left_number
        wire.worker.remove(wire.left_number)
        assert wire.worker.add(wire.left, wire.patch) == wire.left_number
        wire.left.put(numbered(1))
        assert len(collect(wire.right, 1)) == 1


def test_report_of_a_port_that_had_the_number_before_is_not_shown() -> None:
    with patched() as wire:
        wire.worker.send(wire.right_number, REPORT, report(333, 1))
        wire.worker.remove(wire.right_number)
        wire.worker.add(TestingPort(wire.pool), wire.patch, wire.right_number)
        wire.worker.send(wire.right_number, REPORT, report(333, 2))
        assert [event.value for event in wire.worker.events()] == [2]


def test_paused_worker_answers_messages_and_moves_nothing() -> None:
    with patched() as wire:
        with wire.worker.paused():
            wire.left.put(numbered(3))
            wire.worker.send(wire.right_number, DOWN)
            wire.worker.send(wire.right_number, UP)
            assert wire.worker.counters()[wire.left_number].rx_frames == 0
        assert len(collect(wire.right, 3)) == 3
