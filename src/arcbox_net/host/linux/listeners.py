"""Who listens on every address of the host, read from /proc/net. Knows nothing of what for."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

PROBE_ADDRESS = "127.255.255.254"  # an address of the host's that nobody binds
_TCP_LISTEN = "0A"
_UDP_UNCONNECTED = "07"


def wildcard_listeners(protocol: str, port: int, *, root: Path = Path("/")) -> list[str]:
    """Programs (`name, pid N`, or `someone`) with a socket on that port of 0.0.0.0 or ::.

    One that is bound to an interface, as DHCP servers for one network are, takes the port from nobody else. The
    tables in /proc do not say so; that an address can still be bound does.
    """
    if root == Path("/") and _is_free(protocol, port):
        return []
    inodes = []
    for table in (protocol, protocol + "6"):
        try:
            lines = (root / "proc/net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            listening = fields[3] == (_TCP_LISTEN if protocol == "tcp" else _UDP_UNCONNECTED)
            if listening and int(number, 16) == port and not address.strip("0"):
                inodes.append(fields[9])
    return [_holder(inode, root) for inode in dict.fromkeys(inodes)]


def _is_free(protocol: str, port: int) -> bool:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
            probe.bind((PROBE_ADDRESS, port))
        except OSError as error:  # without privilege nobody can tell
            return error.errno not in (errno.EADDRINUSE, errno.EACCES)
    return True


def _holder(inode: str, root: Path) -> str:
    target = f"socket:[{inode}]"
    for entry in os.listdir(root / "proc"):
        if not entry.isdigit():
            continue
        try:
            fds = os.listdir(root / "proc" / entry / "fd")
            if any(_link(root / "proc" / entry / "fd" / fd) == target for fd in fds):
                name = (root / "proc" / entry / "comm").read_text().strip()
                return f"{name}, pid {entry},"
        except OSError:
            continue  # it ended, or is not ours to look at
    return "someone"


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
