"""Linux, as the rest of the package asks for it: see `host/platform.py`."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import signal
import struct
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from arcbox_net.host.check import Check

NETWORK = "kernel"
PORT_KINDS = ("tap", "netns", "stream", "dgram", "vhost-user")
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: type, whence, start, length, pid
_DELETE_OR_RENAME = fcntl.DN_DELETE | fcntl.DN_RENAME | fcntl.DN_MULTISHOT


class _PidFd:
    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def fileno(self) -> int:
        return self._fd

    def wait(self, timeout_s: float) -> bool:
        poll = select.poll()  # not select(): an embedding program may hold more than 1024 fds
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(max(0, int(timeout_s * 1000))))

    def close(self) -> None:
        os.close(self._fd)


class _FolderWatch:
    """Has a signal for every file that goes: no thread and no timer looks."""

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        asyncio.get_running_loop().add_signal_handler(signal.SIGIO, changed)
        try:
            fcntl.fcntl(self._fd, fcntl.F_NOTIFY, _DELETE_OR_RENAME)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._fd)  # before its signal has no handler
        asyncio.get_running_loop().remove_signal_handler(signal.SIGIO)


watch_process = _PidFd
watch_folder = _FolderWatch


# Open-file-description locks can be asked for without being taken (unlike flock), and are not lost when the process
# closes another descriptor of the same file (unlike POSIX locks).
def take_lock(fd: int) -> bool:
    wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(fd: int) -> bool:
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def start_monitor(words: list[str], fds: Sequence[int], network_pid: int | None) -> int:
    from arcbox_net.host.linux.guest_process import GuestProcess, enter, execute

    def become(_order: dict[str, Any]) -> int:
        if network_pid is not None:
            enter(network_pid)
        for fd in fds:
            os.set_inheritable(fd, True)
        execute(words)

    process = GuestProcess.fork(become, namespaces=False)
    try:
        process.release({})
    except BaseException:
        process.kill()
        raise
    return process.pid


def checks(live: Collection[str]) -> list[Check]:
    from arcbox_net.host.linux import doctor

    return doctor.checks(live=live)
