"""Network namespaces of others: opened as an fd, entered by a thread that ends there."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from arcbox_net.errors import NamespaceNotFound, PermissionDenied

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
NETNS_DIR = "/run/netns"

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def open_netns(path: str | None, pid: int | None) -> int:
    """A new fd of the network namespace at *path* (or so named by `ip netns`), or of process *pid*."""
    if (path is None) == (pid is None):
        raise ValueError("give a path or a pid")
    if pid is not None:
        where, missing = f"/proc/{pid}/ns/net", f"no process {pid}"
        fix = "name a running process"
    else:
        assert path is not None
        where = path if "/" in path else f"{NETNS_DIR}/{path}"
        missing = f"no network namespace {where}"
        fix = "list them with `ip netns`, or make one with `ip netns add NAME`"
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for its writer
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        raise NamespaceNotFound(missing, fix=fix, namespace=where) from None
    except PermissionError as error:
        raise PermissionDenied(
            f"open network namespace {where}: {error.strerror}",
            fix="run as root, or as the owner of that process",
            operation="open network namespace",
        ) from None
    except OSError as error:
        raise NamespaceNotFound(f"{where}: {error.strerror}", fix=fix, namespace=where) from None
    if not _is_netns(fd):
        os.close(fd)
        raise NamespaceNotFound(f"{where} is not a network namespace", fix=fix, namespace=where)
    return fd


def open_guest(name: str) -> int:
    """As `open_netns`, for a guest's namespace as rows name it: a path, or `pid N`."""
    kind, _, pid = name.partition(" ")
    return open_netns(None, int(pid)) if kind == "pid" and pid.isdigit() else open_netns(name, None)


def inode_of(path: str | None, pid: int | None) -> int | None:
    """What `current_inode` would be there; None where it cannot be told."""
    where = f"/proc/{pid}/ns/net" if path is None else path if "/" in path else f"{NETNS_DIR}/{path}"
    with contextlib.suppress(OSError, ValueError):
        return os.stat(where).st_ino
    return None


def current_inode() -> int:
    """The inode that identifies the calling thread's network namespace while it exists."""
    return os.stat("/proc/thread-self/ns/net").st_ino


def same_netns(one: int, other: int) -> bool:
    """Do two namespace fds mean the same namespace?"""
    a, b = os.fstat(one), os.fstat(other)
    return (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)


def in_netns(fd: int, function: Callable[[], T]) -> T:
    """The result of *function*, run in a thread that enters the namespace *fd* and then ends.

    A thread that entered never serves anything else, so no caller ever finds itself in another namespace.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def inside() -> None:
        try:
            if _libc.setns(fd, CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"enter network namespace: {os.strerror(code)}")
            results.append(function())
        except BaseException as error:  # raised in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=inside, name="in-netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _is_netns(fd: int) -> bool:
    with contextlib.suppress(OSError):
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    return False
