"""Bytes of a TCP test, which nobody looks at: senders use `sendfile`, receivers discard in the kernel."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

BLOCK_BYTES = 4 * 1024 * 1024
RECV_BYTES = 1024 * 1024


def fill(connection: socket.socket, seconds: float) -> None:
    """Send for *seconds*, then FIN."""
    end = time.monotonic() + seconds
    with _block() as block:
        while time.monotonic() < end:
            os.sendfile(connection.fileno(), block, 0, BLOCK_BYTES)
    connection.shutdown(socket.SHUT_WR)


def drain(connection: socket.socket) -> dict[str, Any]:
    """Discard until FIN; the time runs from the first byte."""
    buffer = bytearray(RECV_BYTES)
    total = connection.recv_into(buffer, 1)
    begin = time.monotonic()
    while count := connection.recv_into(buffer, RECV_BYTES, socket.MSG_TRUNC):
        total += count
    return {"bytes": total, "seconds": max(time.monotonic() - begin, 1e-9)}


@contextlib.contextmanager
def _block() -> Iterator[int]:
    """A file in memory that sendfile reads from."""
    fd = os.memfd_create("netspeed", os.MFD_CLOEXEC)
    try:
        os.write(fd, bytes(BLOCK_BYTES))
        yield fd
    finally:
        os.close(fd)
