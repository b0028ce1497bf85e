"""What a guest process sees of the files: the host's, but for its own /sys and its own resolver.

All of it is mounted in the mount namespace that the process has made, and goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile

MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MNT_DETACH = 2
RESOLV_CONF = "/etc/resolv.conf"

_libc = ctypes.CDLL(None, use_errno=True)


def make_private() -> None:
    """Keep what is mounted from here on to this mount namespace. Raises OSError."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)


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
