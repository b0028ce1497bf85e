"""macOS, as the rest of the package asks for it: see `host/platform.py`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from arcbox_net.host.check import Check
from arcbox_net.host.command import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, CommandFailed

NETWORK = "vmnet"
PORT_KINDS = ("stream", "dgram")
_select: Any = select  # has kqueues on macOS, which a type checker elsewhere does not know
LOCK_ATTEMPTS = 10
LOCK_AGAIN_S = 0.01


class _Kqueue:
    """One event, in a queue whose descriptor is readable when it has come."""

    def __init__(self, ident: int, kind: int, flags: int, what: int) -> None:
        self._queue = _select.kqueue()
        try:
            self._queue.control([_select.kevent(ident, kind, _select.KQ_EV_ADD | flags, what)], 0)
        except BaseException:
            self._queue.close()
            raise

    def fileno(self) -> int:
        return int(self._queue.fileno())

    def wait(self, timeout_s: float) -> bool:
        return bool(self._queue.control(None, 1, max(0.0, timeout_s)))

    def close(self) -> None:
        self._queue.close()


def watch_process(pid: int) -> _Kqueue:
    return _Kqueue(pid, _select.KQ_FILTER_PROC, 0, _select.KQ_NOTE_EXIT)


class _FolderWatch:
    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self._changed = changed
        what = _select.KQ_NOTE_WRITE | _select.KQ_NOTE_DELETE | _select.KQ_NOTE_RENAME
        try:
            self._events = _Kqueue(self._fd, _select.KQ_FILTER_VNODE, _select.KQ_EV_CLEAR, what)
        except BaseException:
            os.close(self._fd)
            raise
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._on_event)

    def _on_event(self) -> None:
        if self._events.wait(0):
            self._changed()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._events.fileno())
        self._events.close()
        os.close(self._fd)


watch_folder = _FolderWatch


# flock, because macOS has no lock of open files that one can ask for: whoever asks takes a shared lock for a moment, so
# whoever wants it waits for longer than that.
def take_lock(fd: int) -> bool:
    for attempt in range(LOCK_ATTEMPTS):
        if attempt:
            time.sleep(LOCK_AGAIN_S)
        if _flock(fd, fcntl.LOCK_EX):
            return True
    return False


def is_locked(fd: int) -> bool:
    if not _flock(fd, fcntl.LOCK_SH):
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_monitor(words: list[str], fds: Sequence[int], network_pid: int | None) -> int:
    changed = [signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ]  # by Python itself
    try:
        return os.posix_spawnp(words[0], words, os.environ, setsigmask=[], setsigdef=changed)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise CommandFailed(
            f"{words[0]}: {'command not found' if missing else error.strerror}",
            exit_status=EXIT_NOT_FOUND if missing else EXIT_CANNOT_EXECUTE,
        ) from None


def checks(live: Collection[str]) -> list[Check]:
    from arcbox_net.host.macos import doctor

    return doctor.checks(doctor.Mac())
