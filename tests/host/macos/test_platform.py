"""What macOS has in the place of Linux's process descriptors, locks and folder watches, as far as Linux has it too."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from arcbox_net.host.command import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, CommandFailed
from arcbox_net.host.macos import platform


class FakeKqueue:
    """A kqueue of one event: readable once a test has had it come."""

    made: list[FakeKqueue]

    def __init__(self) -> None:
        self.ends = os.pipe()
        self.registered: tuple[Any, ...] = ()
        FakeKqueue.made.append(self)

    def control(
        self, changes: list[tuple[Any, ...]] | None, count: int, timeout: float | None = None
    ) -> list[int]:
        if changes is not None:
            self.registered = changes[0]
            if self.registered[0] == 0:
                raise ProcessLookupError(3, "No such process")
        if not count or not select.select([self.ends[0]], [], [], timeout)[0]:
            return []
        os.read(self.ends[0], 1)
        return [1]

    def come(self) -> None:
        os.write(self.ends[1], b"!")

    def fileno(self) -> int:
        return self.ends[0]

    def close(self) -> None:
        for end in self.ends:
            os.close(end)
        self.ends = (-1, -1)


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeKqueue]]:
    FakeKqueue.made = []
    names = (
        "EV_ADD",
        "EV_CLEAR",
        "FILTER_PROC",
        "FILTER_VNODE",
        "NOTE_EXIT",
        "NOTE_WRITE",
        "NOTE_DELETE",
        "NOTE_RENAME",
    )
    bits = {f"KQ_{name}": 1 << i for i, name in enumerate(names)}
    fake = SimpleNamespace(kqueue=FakeKqueue, kevent=lambda *fields: fields, **bits)
    monkeypatch.setattr(platform, "_select", fake)
    yield FakeKqueue.made
    assert all(queue.ends == (-1, -1) for queue in FakeKqueue.made), "a queue was left open"


def test_the_end_of_a_process_is_an_event_of_a_kqueue(queues: list[FakeKqueue]) -> None:
    end = platform.watch_process(42)
    assert queues[0].registered == (42, 4, 1, 16)
    assert not end.wait(0)
    queues[0].come()
    assert end.wait(30)
    end.close()


def test_a_process_that_is_not_there_is_an_error(queues: list[FakeKqueue]) -> None:
    with pytest.raises(ProcessLookupError):
        platform.watch_process(0)


def test_a_folder_that_loses_a_file_is_told_of(queues: list[FakeKqueue], tmp_path: Path) -> None:
    async def look() -> None:
        changed = asyncio.Event()
        watch = platform.watch_folder(tmp_path, changed.set)
        assert not changed.is_set()
        queues[0].come()
        await asyncio.wait_for(changed.wait(), 30)
        watch.close()

    asyncio.run(look())
    with pytest.raises(FileNotFoundError):
        platform.watch_folder(tmp_path / "none", lambda: None)


def test_a_lock_is_one_open_files_until_it_is_closed(tmp_path: Path) -> None:
    one, other = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert not platform.is_locked(other)
    assert platform.take_lock(one)
    assert platform.is_locked(other) and not platform.take_lock(other)
    os.close(one)
    assert not platform.is_locked(other) and platform.take_lock(other)
    os.close(other)


def test_who_asks_for_a_lock_does_not_keep_it_from_who_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "LOCK_ATTEMPTS", 1000)  # nobody else asks again and again without a pause
    asking, wanting = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            platform.is_locked(asking)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert platform.take_lock(wanting)
    finally:
        stop.set()
        thread.join()
    os.close(asking)
    os.close(wanting)


def test_a_monitor_is_started_with_a_shells_statuses(tmp_path: Path) -> None:
    pid = platform.start_monitor(["sh", "-c", "exit 7"], (), None)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    plain = tmp_path / "plain"
    plain.touch()
    for words, status in ((["no-such-monitor"], EXIT_NOT_FOUND), ([str(plain)], EXIT_CANNOT_EXECUTE)):
        with pytest.raises(CommandFailed) as failed:
            platform.start_monitor(words, (), None)
        assert failed.value.facts["exit_status"] == status
