"""When a relay thread looks for events before it sleeps."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from arcbox_net.relay._testing import Waiting
from tests.support.relay import TcpForward, read_exactly, wait_until

THREADS = Path("/proc/self/task")
SHORT_WAIT_NS = 100_000
SHORT_WAITS = 8
LOOK_NS = 50_000
YIELD_NS_MAX = 200_000
NO_LOOK_NS = 100_000_000


@pytest.fixture
def waiting() -> Waiting:
    """A thread in an exchange."""
    state = Waiting()
    for _ in range(SHORT_WAITS):
        state.waited(SHORT_WAIT_NS)
    return state


def test_a_thread_looks_after_so_many_short_waits_and_not_before() -> None:
    state = Waiting()
    for _ in range(SHORT_WAITS - 1):
        state.waited(SHORT_WAIT_NS)
    assert not state.looks(0)
    state.waited(SHORT_WAIT_NS)
    assert state.looks(0)


def test_a_wait_that_is_a_little_longer_ends_the_looking(waiting: Waiting) -> None:
    assert waiting.looks(0)
    waiting.waited(SHORT_WAIT_NS + 1)
    assert not waiting.looks(0)


def test_a_look_in_vain_is_the_last_one(waiting: Waiting) -> None:
    assert waiting.looks_on(0, LOOK_NS - 1, LOOK_NS)
    assert waiting.looks(LOOK_NS)
    assert not waiting.looks_on(0, LOOK_NS, LOOK_NS + 1)
    assert not waiting.looks(LOOK_NS + 1)


def test_a_core_that_others_keep_is_left_to_them_for_a_while(waiting: Waiting) -> None:
    back = YIELD_NS_MAX + 1
    assert not waiting.looks_on(0, 0, back)
    assert not waiting.looks(back + NO_LOOK_NS - 1)
    assert waiting.looks(back + NO_LOOK_NS)


def test_a_relay_that_looked_for_events_sleeps_when_no_more_come() -> None:
    before = set(os.listdir(THREADS))
    with TcpForward() as forward:
        (thread,) = set(os.listdir(THREADS)) - before
        client, served = forward.pair()
        for _ in range(1000):
            _exchange(client, served)
        run_ns: list[str] = []

        def sleeps() -> bool:
            run_ns.append((THREADS / thread / "schedstat").read_text().split()[0])
            return len(run_ns) >= 20 and len(set(run_ns[-20:])) == 1

        wait_until(sleeps, "the relay's thread uses no more processor time")


def _exchange(client: socket.socket, served: socket.socket) -> None:
    client.sendall(bytes(16384))
    read_exactly(served, 16384)
    served.sendall(bytes(16384))
    read_exactly(client, 16384)
