"""A process on its way to being a guest: forked, in namespaces of its own, waiting for its network.

The child makes its network and mount namespace and says so; the parent attaches an interface to the child's
pid and releases it; the child dresses up (resolv.conf, /sys) and executes its command. One socket pair
carries all of it: its end of file, when the command is executed, is the sign that nothing failed.
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
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from arcbox_net.errors import ArcboxNetError, KernelError, PermissionDenied

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
EXIT_CANNOT_EXECUTE = 126  # the shell's own statuses
EXIT_NOT_FOUND = 127
MESSAGE_BYTES_MAX = 65536
RESOLV_CONF = "/etc/resolv.conf"

_libc = ctypes.CDLL(None, use_errno=True)


class GuestProcess:
    """A forked child that waits for `release`. Whoever made it waits for its pid."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    @classmethod
    def fork(cls, body: Callable[[dict[str, Any]], int], *, namespaces: bool = True) -> GuestProcess:
        """Fork a child that runs `body(what release() was given)` and exits with its result.

        With *namespaces* it has its own network and mount namespace when this returns. Signals that the
        caller blocks stay blocked until `body` runs.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _child(theirs, parent, body, namespaces)
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
        body = json.loads(said)
        if body.get("code") == PermissionDenied.code:
            raise PermissionDenied(body["message"], fix=body["fix"], operation=body["operation"])
        raise CommandFailed(body["message"], exit_status=body.get("status", 1))


class CommandFailed(ArcboxNetError):
    """A command could not be executed. Facts: `exit_status`, what a shell would exit with."""

    code = "command"


def _child(
    channel: socket.socket, parent: int, body: Callable[[dict[str, Any]], int], namespaces: bool
) -> NoReturn:
    """The forked side; never returns into the caller's code."""
    status = 1
    try:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if namespaces:
            unshare(CLONE_NEWNET | CLONE_NEWNS)
            mount(None, "/", None, MS_REC | MS_PRIVATE)
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
        channel.send(json.dumps({**error.to_json(), **error.facts}).encode())
    except OSError as error:
        channel.send(json.dumps({"message": f"guest process: {error}"}).encode())
    except BaseException as error:
        with contextlib.suppress(OSError):
            channel.send(json.dumps({"message": f"guest process: {error!r}"}).encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


_report_to: list[socket.socket] = []  # in a released child: where its parent listens


def started() -> None:
    """In a released child that executes nothing: tell the parent that all went well."""
    _report_to.pop().close()


def execute(command: Sequence[str]) -> NoReturn:
    """Become *command*. What prevents it is raised in the parent, with the status a shell would exit with."""
    try:
        # execvp reports the directory of PATH that it may not read rather than that nothing is found.
        missing = shutil.which(command[0]) is None and "/" not in command[0]
        os.execvp(command[0], list(command))
    except OSError as error:
        missing = missing or error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "command not found" if missing else os.strerror(error.errno or 0)
        status = EXIT_NOT_FOUND if missing else EXIT_CANNOT_EXECUTE
        _report_to[0].send(json.dumps({"message": f"{command[0]}: {reason}", "status": status}).encode())
        os._exit(status)


def dress(resolv_conf: str | None) -> list[str]:
    """In the child: show its own devices in /sys and its own resolver. Returns what could not be done."""
    missed = []
    try:
        _fresh_sysfs()
    except OSError as error:
        missed.append(f"/sys shows the host's interfaces: {error}")
    if resolv_conf is not None:
        try:
            replace_resolv_conf(resolv_conf)
        except OSError as error:
            missed.append(f"{RESOLV_CONF} is the host's, so guests' names do not resolve: {error}")
    return missed


def replace_resolv_conf(text: str, path: str = RESOLV_CONF) -> None:
    """Make *text* what *path* holds, in this mount namespace only.

    A symlink is followed to what it names. Where there is nothing to mount on (no file, a dangling link), an
    overlay over the directory brings the file. The content lives on a tmpfs that only the mounts refer to.
    """
    scratch = tempfile.mkdtemp(prefix="arcbox-net-")
    try:
        mount("tmpfs", scratch, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755")
        try:
            _mount_text(scratch, text, path)
        finally:
            umount(scratch)
    finally:
        os.rmdir(scratch)


def _mount_text(scratch: str, text: str, path: str) -> None:
    if os.path.isfile(path):
        source = os.path.join(scratch, "resolv.conf")
        _write(source, text)
        mount(source, os.path.realpath(path), None, MS_BIND)
        return
    folder, name = os.path.split(path)
    upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
    os.mkdir(upper)
    os.mkdir(work)
    _write(os.path.join(upper, name), text)  # in the upper layer it also hides a dangling link
    os.chmod(upper, os.stat(folder).st_mode & 0o7777)
    mount("overlay", folder, "overlay", 0, f"lowerdir={folder},upperdir={upper},workdir={work}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o644)


def _fresh_sysfs() -> None:
    """Mount a sysfs of this network namespace, and put the control groups back on it."""
    cgroup = None
    with contextlib.suppress(OSError):
        cgroup = os.open("/sys/fs/cgroup", os.O_PATH | os.O_CLOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if cgroup is not None:
        with contextlib.suppress(OSError):
            mount(f"/proc/self/fd/{cgroup}", "/sys/fs/cgroup", None, MS_BIND | MS_REC)
        os.close(cgroup)


def unshare(flags: int) -> None:
    """unshare(2). Raises PermissionDenied or KernelError."""
    if _libc.unshare(flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM:
        raise PermissionDenied(
            "a network namespace needs root (CAP_SYS_ADMIN)", fix="run it with sudo", operation="unshare"
        )
    raise KernelError(
        f"unshare: {os.strerror(number)}", operation="unshare", object="namespace", errno=number
    )


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2). Raises OSError that names the target."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else os.fsencode(value)

    if _libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(options)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount: {os.strerror(number)}", target)


def umount(target: str) -> None:
    """Detach a mount at once; what still refers to it keeps it alive. Raises OSError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"umount: {os.strerror(number)}", target)
