"""A TCP connection whose close() waits for its peer (SO_LINGER), as somebody may send it to a socket."""

from __future__ import annotations

import array
import contextlib
import socket
import struct
from types import TracebackType

LINGER_S = 60
PIECE_BYTES = 1 << 16


class Lingering:
    """One end is `connection`, with more to send than the other takes; at the end nobody waits for it any more."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.connection = socket.create_connection(listener.getsockname())
            self._peer, _ = listener.accept()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
        self.connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.connection.send(bytes(PIECE_BYTES))

    def send_to(self, receiver: socket.socket, body: bytes, *, times: int = 1, flags: int = 0) -> None:
        """Send it with *body*; what was sent is the last to have it then."""
        fds = array.array("i", [self.connection.fileno()] * times)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        receiver.sendmsg([body], rights, flags)  # send_fds has no flags
        self.connection.close()

    def __enter__(self) -> Lingering:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peer.close()  # with bytes unread: the connection is reset
        self.connection.close()
