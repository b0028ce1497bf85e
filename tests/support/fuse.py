"""A file whose server never answers when the file is closed: run as a program, its descriptor goes to a socket."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.support.source import ROOT

LOOKUP, GETATTR, OPEN, FLUSH, INIT = 1, 3, 14, 25, 26
SILENT = {2, FLUSH, 36, 42}  # FORGET, INTERRUPT and BATCH_FORGET have no answer
HEADER = struct.Struct("=IIQQIIII")
ANSWER = struct.Struct("=IiQ")
ATTRIBUTES = struct.Struct("=6Q10I")
FOLDER, FILE = 1, 2  # nodes
FILE_BYTES = 1 << 20
REQUEST_BYTES_MAX = 1 << 20
ENOSYS = 38
CLONE_NEWNS, MS_PRIVATE, MS_REC = 0x20000, 1 << 18, 1 << 14
NAME = "memory"


def missing() -> str:
    """Why there are no such files here; nothing if there are."""
    if os.geteuid() != 0:
        return "needs root"
    return "" if os.access("/dev/fuse", os.R_OK | os.W_OK) else "needs FUSE: no /dev/fuse"


class Unanswered:
    """Descriptors of the file. `end` takes its server away, and whoever waited for it goes on."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            argv = [sys.executable, "-m", __name__, str(theirs.fileno()), self._folder.name]
            self._server = subprocess.Popen(argv, pass_fds=[theirs.fileno()], cwd=ROOT)
            theirs.close()
            _, (self.fd,), _, _ = socket.recv_fds(ours, 1, 1)
            assert ours.recv(1)  # killed while it closes its own, it would wait for its answer for ever

    def end(self) -> None:
        if self._server.poll() is None:
            self._server.kill()
            self._server.wait()
            with contextlib.suppress(OSError):  # its server is gone
                os.close(self.fd)
            self._folder.cleanup()


def serve(fuse: int) -> None:
    while True:
        request = os.read(fuse, REQUEST_BYTES_MAX)
        _, kind, unique, node, _, _, process, _ = HEADER.unpack_from(request)
        # A server that waits for itself cannot be killed.
        if kind not in SILENT or (kind == FLUSH and process == os.getpid()):
            body = answer(kind, node)
            error = -ENOSYS if body is None else 0
            os.write(fuse, ANSWER.pack(ANSWER.size + len(body or b""), error, unique) + (body or b""))


def answer(kind: int, node: int) -> bytes | None:
    if kind == INIT:
        return struct.pack("=4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 4096, 1, 1, 0, *[0] * 8)
    if kind == LOOKUP:
        return struct.pack("=4Q2I", FILE, 0, 60, 60, 0, 0) + attributes(FILE)
    if kind == GETATTR:
        return struct.pack("=Q2I", 60, 0, 0) + attributes(node)
    if kind == OPEN:
        return struct.pack("=Q2I", 1, 0, 0)
    return b"" if kind == FLUSH else None


def attributes(node: int) -> bytes:
    mode = 0o40755 if node == FOLDER else 0o100644
    return ATTRIBUTES.pack(node, FILE_BYTES, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def main(number: int, folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"unanswered", folder.encode(), b"fuse", 0, options) == 0, os.strerror(
        ctypes.get_errno()
    )
    server = threading.Thread(target=serve, args=(fuse,))
    server.start()
    with socket.socket(fileno=number) as parent:
        file = os.open(Path(folder) / NAME, os.O_RDWR)
        socket.send_fds(parent, [b"x"], [file])
        os.close(file)
        parent.send(b"x")
    server.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
