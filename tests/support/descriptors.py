"""How many descriptors this process has, and what it does without any left."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket

from arcbox_net.ports.unix_sockets import SO_PASSRIGHTS


def open_descriptors() -> int:
    """How many are open, but for those that garbage of earlier tests holds."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


def can_refuse_descriptors() -> bool:
    """Whether this kernel lets sockets say that they take none: Linux from 6.16 on."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


class no_descriptors:
    """Inside, this process cannot open a descriptor; `spare` says how many it still can."""

    def __init__(self, spare: int = 0) -> None:
        self._spare = spare
        self._extra: list[int] = []

    def __enter__(self) -> None:
        gc.collect()  # or garbage gives back what was used up
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        top = max(int(fd) for fd in os.listdir("/dev/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + self._spare, self._limit[1]))
        with contextlib.suppress(OSError):
            while True:
                self._extra.append(os.dup(0))
        for _ in range(self._spare):
            os.close(self._extra.pop())

    def __exit__(self, *exc: object) -> None:
        for fd in self._extra:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limit)
