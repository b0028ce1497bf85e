"""A process on its way to being a guest: forked, in namespaces of its own, waiting for its network.

The child makes its network and mount namespace and says so; the parent attaches an interface to the child's
pid and releases it; the child dresses up (resolv.conf, /sys) and executes its command. One socket pair
carries all of it: its end of file, when the command is executed, is the sign that nothing failed.
The namespaces of a guest of an ordinary user's network are owned by a user namespace below that network's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from arcbox_net.errors import ArcboxNetError, KernelError, PermissionDenied, from_json
from arcbox_net.host.command import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, CommandFailed
from arcbox_net.host.linux import guest_mounts, inside, user_namespace

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
MESSAGE_BYTES_MAX = 65536

_libc = ctypes.CDLL(None, use_errno=True)


class GuestProcess:
    """A forked child that waits for `release`. Whoever made it waits for its pid."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    @classmethod
    def fork(
        cls, body: Callable[[dict[str, Any]], int], *, namespaces: bool = True, network_pid: int | None = None
    ) -> GuestProcess:
        """Fork a child that runs `body(what release() was given)` and exits with its result.

        With *namespaces* it has its own network and mount namespace when this returns, below the user namespace
        of the network process *network_pid* if that has one of its own. Signals that the caller blocks stay
        blocked until `body` runs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _child(theirs, parent, body, partial(_own_namespaces, network_pid) if namespaces else _none)
        theirs.close()
        child = cls(pid, ours)
        try:
            child._expect("ready")
        except BaseException:
            child.kill()
            raise
        return child

    def release(self, order: dict[str, Any]) -> None:
        """Let the child go on, until its command is executed or it said `started`. Raises what failed."""
        with contextlib.suppress(BrokenPipeError):
            self._channel.send(json.dumps(order).encode())
        self._expect("")
        self._channel.close()

    def kill(self) -> None:
        """End the child at once, and collect it."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _expect(self, word: str) -> None:
        said = self._channel.recv(MESSAGE_BYTES_MAX).decode()
        if said == word:
            return
        if not said:
            raise KernelError(
                "the guest process ended before it was ready", operation="fork", object=str(self.pid)
            )
        raise from_json(json.loads(said))


def _child(
    channel: socket.socket,
    parent: int,
    body: Callable[[dict[str, Any]], int],
    make_namespaces: Callable[[], None],
) -> NoReturn:
    """The forked side; never returns into the caller's code."""
    status = 1
    try:
        make_namespaces()
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)  # after: new credentials may clear it
        if os.getppid() != parent:
            os._exit(1)
        channel.send(b"ready")
        order = channel.recv(MESSAGE_BYTES_MAX)
        if order:
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):  # what Python itself has changed
                if number is not signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            _report_to.append(channel)
            status = body(json.loads(order))
    except ArcboxNetError as error:
        _report(channel, error)
    except OSError as error:
        _report(channel, CommandFailed(f"guest process: {error}", exit_status=1))
    except BaseException as error:
        with contextlib.suppress(OSError):
            _report(channel, CommandFailed(f"guest process: {error!r}", exit_status=1))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _none() -> None:
    """A child that stays in its parent's namespaces."""


def _own_namespaces(network_pid: int | None) -> None:
    if network_pid is not None and user_namespace.is_private(network_pid):
        user_namespace.join(network_pid)
        inside.enter_user_namespace(user_namespace.GUEST_POWERS)
    unshare(CLONE_NEWNET | CLONE_NEWNS)
    guest_mounts.make_private()


def enter(network_pid: int) -> bool:
    """Move this process of one thread into the private namespace of a network; False where it has none.

    What is executed then has every power over the network. Raises PermissionDenied, NotRunning.
    """
    netns = user_namespace.private_netns(network_pid)
    if netns is None:
        return False
    try:
        private = user_namespace.is_private(network_pid)
        if private:
            user_namespace.join(network_pid)
        user_namespace.enter_netns(netns)
        unshare(CLONE_NEWNS)
        if private:
            inside.raise_ambient(inside.AMBIENT)
    finally:
        os.close(netns)
    guest_mounts.make_private()
    return True


def _report(channel: socket.socket, error: ArcboxNetError) -> None:
    channel.send(json.dumps(error.to_json()).encode())


_report_to: list[socket.socket] = []  # in a released child: where its parent listens


def started() -> None:
    """In a released child that executes nothing: tell the parent that all went well."""
    _report_to.pop().close()


def execute(command: Sequence[str]) -> NoReturn:
    """In a released child: become *command*. What prevents it is raised in the parent."""
    try:
        become(command)
    except CommandFailed as error:
        _report(_report_to[0], error)
        os._exit(error.exit_status)


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by *command*. Raises CommandFailed with the status a shell would exit with."""
    try:
        # execvp reports the directory of PATH that it may not read rather than that nothing is found.
        missing = shutil.which(command[0]) is None and "/" not in command[0]
        os.execvp(command[0], list(command))
    except OSError as error:
        missing = missing or error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "command not found" if missing else os.strerror(error.errno or 0)
        status = EXIT_NOT_FOUND if missing else EXIT_CANNOT_EXECUTE
        raise CommandFailed(f"{command[0]}: {reason}", exit_status=status) from None


def unshare(flags: int) -> None:
    """unshare(2). Raises PermissionDenied or KernelError."""
    if _libc.unshare(flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise PermissionDenied(
            "a network namespace needs root (CAP_SYS_ADMIN)", fix="run it as root", operation="unshare"
        )
    raise KernelError(
        f"unshare: {os.strerror(number)}", operation="unshare", object="namespace", errno=number
    )
