"""Closing what a front end sent and nobody keeps, which may take long.

Whoever serves a file may be asked, and never answer (FUSE). A connection may wait for its peer (SO_LINGER), also one
that lies unread in another. The last to close large memory gives it back page by page: half a second for a gigabyte.

So all but eventfds, pipes and small memory are closed by a thread, which ends with the last of them. One that waits for
ever holds up the others and, when the process ends, its end: until the file's server is gone.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import socket
import threading

SMALL_BLOCKS = 8192  # of memory: 4 MiB
WAITING_MAX = 64  # from then on nothing is taken from the front end: twice as many as it has slots of memory


class Strangers:
    """The descriptors of one port's front ends that are being closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: collections.deque[int] = collections.deque()
        self._is_closing = False

    @property
    def are_many(self) -> bool:
        return len(self._waiting) >= WAITING_MAX

    def close(self, fd: int) -> None:
        if not _may_wait(fd):
            os.close(fd)
            return
        with self._lock:
            self._waiting.append(fd)
            if self._is_closing:
                return
            self._is_closing = True
        threading.Thread(target=self._close_all, name="strangers", daemon=True).start()

    def close_connection(self, connection: socket.socket) -> None:
        """Nothing more can come: what has, and was not read, is closed with it."""
        with contextlib.suppress(OSError):  # it has ended already
            connection.shutdown(socket.SHUT_RDWR)
        pass_nothing_over(connection)
        if _unread(connection):
            self.close(connection.detach())
        else:
            connection.close()

    def _close_all(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_closing = False
                    return
                fd = self._waiting.popleft()
            with contextlib.suppress(OSError):  # what its server says of it
                os.close(fd)


def pass_nothing_over(connection: socket.socket) -> None:
    """Read what is out of band in its turn: the kernel would pass it over, and close what came with it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def link_of(fd: int) -> str:
    """What the kernel calls the file. Its server is not asked."""
    return os.readlink(f"/proc/self/fd/{fd}")


def _may_wait(fd: int) -> bool:
    link = link_of(fd)
    if not link.startswith("/"):
        return not link.startswith(("anon_inode:[eventfd]", "pipe:"))
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return True
    return os.fstat(fd).st_blocks > SMALL_BLOCKS


def _unread(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:  # which comes behind what there was
        return False
