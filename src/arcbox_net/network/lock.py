"""Who is the network NAME: a file lock that ends with the process, whatever happens to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from arcbox_net import paths
from arcbox_net.errors import AlreadyRunning, PermissionDenied
from arcbox_net.host.platform import platform

ATTEMPTS_MAX = 16
# What a network has in its runtime directory; the lock goes last, and with it the name.
FILES = ("api.sock", "fd.sock", "state.db", "state.db-wal", "state.db-shm", "state.db-journal", "lock")


class NetworkLock:
    """Held from construction to `release`. Raises AlreadyRunning, PermissionDenied."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fd = _acquire(name)

    def retake(self) -> None:
        """Make what somebody removed again, and hold the name there. Raises AlreadyRunning, PermissionDenied."""
        if not _is_current(self._fd, self.name):
            fd = _acquire(self.name)
            os.close(self._fd)
            self._fd = fd

    def release(self, *, keep_directory: bool = False) -> None:
        """Give the name up, and with it what a network has in its runtime directory, the lock file itself last.

        Somebody may have removed the directory under us: what is there now is then the next holder's. One that has
        other files too was there before us, and stays.
        """
        if not keep_directory and not _is_anothers(self._fd, self.name):
            _remove_files(paths.runtime_dir(self.name))
        os.close(self._fd)


def live_networks() -> list[str]:
    """Names whose process holds its lock, sorted."""
    found = []
    with contextlib.suppress(OSError):
        for directory in sorted(paths.runtime_root().iterdir()):
            with contextlib.suppress(OSError):
                fd = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    if platform().is_locked(fd):
                        found.append(directory.name)
                finally:
                    os.close(fd)
    return found


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time in the block; waits for its turn."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def make_records_dir() -> Path:
    """The directory that networks of this host share, nobody's but this user's. Raises PermissionDenied."""
    directory = paths.records_dir()
    try:
        _make_private(directory)
    except OSError as error:
        raise _unusable(directory, error) from None
    return directory


def _acquire(name: str) -> int:
    for _ in range(ATTEMPTS_MAX):
        fd = _open(name)
        if not platform().take_lock(fd):
            pid = os.pread(fd, 20, 0).decode(errors="replace").strip()
            os.close(fd)
            raise AlreadyRunning(
                f"network {name} is running already (pid {pid or 'unknown'})",
                fix=f"look at it: arcbox-net show {name}, or stop it: arcbox-net down {name}",
                network=name,
                pid=int(pid) if pid.isdigit() else None,
            )
        if _is_current(fd, name):
            break
        os.close(fd)  # its owner removed the directory between our open and our lock
    else:
        raise AlreadyRunning(f"network {name} is being stopped", fix="try again", network=name, pid=None)
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _open(name: str) -> int:
    directory = paths.runtime_dir(name)
    try:
        _make_private(directory)
        return os.open(paths.lock_file(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return _open(name)  # removed by an ending process between mkdir and open
    except OSError as error:
        raise _unusable(directory, error) from None


def _make_private(directory: Path) -> None:
    """*directory* is below the runtime root, which is made too. Raises PermissionDenied, OSError."""
    root = paths.runtime_root()
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_safe(root)
    directory.mkdir(mode=0o700, exist_ok=True)
    _check_own(directory)
    directory.chmod(0o700)


def _remove_files(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for file in FILES:
            (directory / file).unlink(missing_ok=True)
        directory.rmdir()


def _check_safe(root: Path) -> None:
    """Raise PermissionDenied where others could put their own files in the place of ours.

    The root itself is left as it is: it may be a directory that somebody else needs as it is, such as /tmp.
    """
    for shared in {root, root.parent} if paths.is_fallback() else {root}:
        found = shared.stat()
        writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in (0, os.geteuid()) or writable:
            raise _unsafe(shared, "others may change it")


def _check_own(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise _unsafe(directory, "somebody else made it")


def _unusable(directory: Path, error: OSError) -> PermissionDenied:
    return PermissionDenied(
        f"{directory}: {error.strerror}",
        fix="run as the user who owns it, or set ARCBOX_NET_RUNTIME_DIR",
        operation="create runtime directory",
    )


def _unsafe(path: Path, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"{path}: {why}",
        fix="remove it, or set ARCBOX_NET_RUNTIME_DIR to a directory of your own",
        operation="create runtime directory",
    )


def _is_current(fd: int, name: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(paths.lock_file(name)))
    except FileNotFoundError:
        return False


def _is_anothers(fd: int, name: str) -> bool:
    return paths.lock_file(name).exists() and not _is_current(fd, name)
