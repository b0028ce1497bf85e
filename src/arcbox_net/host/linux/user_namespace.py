"""User namespaces of networks that an ordinary user runs: joined, and nested for the network's guests.

Such a network owns a user namespace, and that owns the network's private network namespace. A process that
joins has every power over the network; this is for its owner (`enter`). A guest gets a user namespace below the
network's, and its network and mount namespaces belong to that one: it has every power over what is its own,
and none over the network's bridge and rules, because a power never reaches upwards.

Users are mapped to themselves, not to root: the command stays who typed it, so its files, $HOME and ssh are as
outside, and programs that refuse to run as root do run. The powers that a guest has over its own network are
ambient instead, so that `ip`, `ping`, `tcpdump` and a server on port 80 work in it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterable

from arcbox_net.errors import ArcboxNetError, KernelError, NotRunning, PermissionDenied
from arcbox_net.host.linux.inside import (
    CAP_NET_ADMIN,
    CAP_NET_BIND_SERVICE,
    CAP_NET_RAW,
    CLONE_NEWUSER,
    NS_GET_USERNS,
)
from arcbox_net.host.linux.namespace import CLONE_NEWNET, open_guest

NS_GET_PARENT = 0xB702

GUEST_POWERS = (CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW)

_libc = ctypes.CDLL(None, use_errno=True)


def is_private(pid: int) -> bool:
    """Whether process *pid* has a user namespace of its own. False when that cannot be told."""
    try:
        return os.stat(f"/proc/{pid}/ns/user").st_ino != os.stat("/proc/self/ns/user").st_ino
    except OSError:
        return False


def private_netns(pid: int) -> int | None:
    """An fd of the network namespace that threads of *pid* entered; None: all are where its main thread is."""
    outside = os.stat(f"/proc/{pid}/ns/net").st_ino
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            fd = os.open(f"/proc/{pid}/task/{thread}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError):
            continue  # that thread has ended
        if os.fstat(fd).st_ino != outside:
            return fd
        os.close(fd)
    return None


def is_elsewhere(pid: int) -> bool:
    """Whether the links of the network process *pid* are in another network namespace than the caller's."""
    try:
        fd = private_netns(pid)
    except OSError:
        return False
    if fd is None:
        return False
    os.close(fd)
    return True


def join(pid: int) -> None:
    """Become a member, with every power, of the user namespace of *pid*. For a process of one thread."""
    try:
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_join(pid, error.errno or 0) from None
    try:
        if _libc.setns(fd, CLONE_NEWUSER) != 0:
            raise _cannot_join(pid, ctypes.get_errno())
    finally:
        os.close(fd)


def join_above(guests: Iterable[str]) -> bool:
    """Become a member of the user namespace above that of one of *guests*, whose network process was killed.

    Only from there can these guests be given new devices. False when none of them is left, or none is below a user
    namespace of this user's. For a process of one thread.
    """
    for guest in guests:
        try:
            fd = _above(guest)
        except (ArcboxNetError, OSError):
            continue
        try:
            if _libc.setns(fd, CLONE_NEWUSER) == 0:
                return True
        finally:
            os.close(fd)
    return False


def _above(guest: str) -> int:
    """An fd of the user namespace above the one that owns the network namespace *guest*. Raises OSError.

    A guest may have gone into namespaces that it made below its own: above those is the guest's, not the network's.
    The network's is where networks make theirs: directly below this process's.
    """
    netns = open_guest(guest)
    try:
        owner = fcntl.ioctl(netns, NS_GET_USERNS)
    finally:
        os.close(netns)
    try:
        above = fcntl.ioctl(owner, NS_GET_PARENT)
    finally:
        os.close(owner)
    try:
        if not _is_own(fcntl.ioctl(above, NS_GET_PARENT)):
            raise PermissionError("the guest is not directly below a network's user namespace")
    except BaseException:
        os.close(above)
        raise
    return above


def _is_own(user_namespace: int) -> bool:
    """Whether the fd, which is closed, is of this process's user namespace."""
    try:
        return os.path.samestat(os.fstat(user_namespace), os.stat("/proc/self/ns/user"))
    finally:
        os.close(user_namespace)


def enter_netns(fd: int) -> None:
    """Move the calling thread into the network namespace *fd*."""
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise KernelError(
            f"enter the network's namespace: {os.strerror(number)}",
            operation="setns",
            object="network namespace",
            errno=number,
        )


def _cannot_join(pid: int, number: int) -> Exception:
    if number in (errno.ENOENT, errno.ESRCH):
        return NotRunning(f"the network process (pid {pid}) has ended", fix="look at it: arcbox-net ls")
    return PermissionDenied(
        f"join the user namespace of the network process (pid {pid}): {os.strerror(number)}",
        fix="run it as the user whose network it is",
        operation="join user namespace",
    )
