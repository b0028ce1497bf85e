"""Become an ordinary user and execute a command: `as_user.py UID GID TUN_MODE SCRATCH PATH… -- CMD…`.

Started as root, in a mount namespace of its own (`ip netns exec` makes one). In that, and nowhere else, /dev/net/tun
has TUN_MODE, and each PATH can be reached even below a folder that is closed to others.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

TUN = "/dev/net/tun"
TUN_DEVICE = os.makedev(10, 200)
S_IFCHR = 0o020000
MS_BIND, MS_REC = 0x1000, 0x4000
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    arguments = sys.argv[1:]
    at = arguments.index("--")
    uid, gid, tun_mode, scratch, *paths = arguments[:at]
    command = arguments[at + 1 :]
    directory = os.getcwd()
    if os.path.exists(TUN):
        set_tun_mode(scratch, int(tun_mode, 8))
    open_ways(paths)
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
    os.chdir(directory if os.access(directory, os.X_OK) else "/")
    signal.signal(
        signal.SIGPIPE, signal.SIG_DFL
    )  # Python's start ignores it, which the command would inherit
    os.execvp(command[0], command)


def set_tun_mode(scratch: str, mode: int) -> None:
    mount("tmpfs", scratch, "tmpfs", 0, "mode=0755")
    device = f"{scratch}/tun"
    os.mknod(device, S_IFCHR, TUN_DEVICE)
    os.chmod(device, mode)
    mount(device, TUN, None, MS_BIND)


def open_ways(paths: list[str]) -> None:
    """Put an open folder with nothing but *paths* in it over the first folder on the way that is closed."""
    fds = {path: os.open(path, os.O_PATH) for path in paths}
    closed: dict[str, list[str]] = {}
    for path in paths:
        folders = [str(folder) for folder in reversed(Path(path).parents)]
        if shut := [folder for folder in folders if not os.stat(folder).st_mode & 0o001]:
            closed.setdefault(shut[0], []).append(path)
    for folder, below in closed.items():
        mount("tmpfs", folder, "tmpfs", 0, "mode=0755")
        for path in below:
            if not os.path.exists(path):  # it may be below another of them
                os.makedirs(path)
                mount(f"/proc/self/fd/{fds[path]}", path, None, MS_BIND | MS_REC)
    for fd in fds.values():
        os.close(fd)


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


main()
