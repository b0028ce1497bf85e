"""The host's upstreams as /etc/resolv.conf names them, followed while it changes."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from arcbox_net.services.dns.settings import PORT, Endpoint

NAMESERVERS_MAX = 8
BYTES_MAX = 64 << 10
LINKS_MAX = 8
POLL_S = 2.0

_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
# modify, attrib, close_write, moved_from, moved_to, create, delete, delete_self, move_self
_IN_MASK = 0x002 | 0x004 | 0x008 | 0x040 | 0x080 | 0x100 | 0x200 | 0x400 | 0x800
_IN_ONLYDIR = 0x01000000


def parse(text: str) -> tuple[Endpoint, ...]:
    """The `nameserver` lines of *text*; lines that are not an address are skipped."""
    found: list[Endpoint] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        found.append((words[1], PORT))
    return tuple(dict.fromkeys(found))[:NAMESERVERS_MAX]


def read(path: Path) -> tuple[Endpoint, ...]:
    """The nameservers in the file *path*; none when it is not there or not readable."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ()
    try:
        return parse(os.read(fd, BYTES_MAX).decode("utf-8", "replace"))
    except OSError:
        return ()
    finally:
        os.close(fd)


def directories(path: Path) -> list[Path]:
    """The directories whose entries decide what *path* is: its own, and those of the links on the way."""
    found = []
    for _ in range(LINKS_MAX):
        found.append(path.parent)
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = Path(os.path.normpath(path.parent / target))
    return list(dict.fromkeys(found))


class ResolvConf:
    """Calls *changed* with new nameservers. The last ones stay in use while the file names none."""

    def __init__(self, path: Path, changed: Callable[[tuple[Endpoint, ...]], None]) -> None:
        self._path = path
        self._changed = changed
        self._current: tuple[Endpoint, ...] = ()
        self._watched: list[Path] = []
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Read the file and follow it from now on."""
        self._loop = asyncio.get_running_loop()
        self._watch()
        self.look()
        self._poll()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unwatch()

    def look(self) -> None:
        """Read the file again and tell when it names other servers than before."""
        found = read(self._path)
        if found and found != self._current:
            self._current = found
            self._changed(found)

    def _poll(self) -> None:
        # Also beside inotify: a directory of the path may be missing now, and a bind mount changes without
        # an event.
        assert self._loop is not None
        if self._fd < 0 or directories(self._path) != self._watched:
            self._watch()
        self.look()
        self._timer = self._loop.call_later(POLL_S, self._poll)

    def _watch(self) -> None:
        self._unwatch()
        assert self._loop is not None
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "inotify_init1"):
            return
        fd = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if fd < 0:
            return
        self._fd = fd
        self._watched = directories(self._path)
        for directory in self._watched:
            libc.inotify_add_watch(fd, os.fsencode(directory), _IN_MASK | _IN_ONLYDIR)
        self._loop.add_reader(fd, self._event)

    def _unwatch(self) -> None:
        if self._fd >= 0:
            assert self._loop is not None
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _event(self) -> None:
        try:
            os.read(self._fd, 64 << 10)
        except OSError:
            return
        if directories(self._path) != self._watched:
            self._watch()
        self.look()
