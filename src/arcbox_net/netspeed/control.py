"""The connection that begins a test with one JSON line, and how measured sockets are set."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from typing import Any

HEADER_BYTES_MAX = 4096
UDP_RECEIVE_BYTES = 4 * 1024 * 1024
SO_RCVBUFFORCE = 33  # not in `socket`; past net.core.rmem_max, for root
TIMEOUT_S = 15


def connect(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=TIMEOUT_S)
    tune(connection)
    return connection


def tune(connection: socket.socket) -> None:
    """Blocking, with the kernel's own timeouts, as sendfile and the compiled loops need it."""
    connection.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", TIMEOUT_S, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):  # a host's default may be bbr, which paces
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def ask(connection: socket.socket, **request: Any) -> None:
    send_line(connection, request)
    if connection.recv(3, socket.MSG_WAITALL) != b"ok\n":
        raise ConnectionError("the server refused the test")


def send_line(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def read_line(connection: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        chunk = connection.recv(1)  # byte by byte: what follows the line belongs to the test
        if not chunk or len(line) >= HEADER_BYTES_MAX:
            raise ConnectionError("the connection ended before a complete line")
        line += chunk
        if line == b"end\n":
            line = b""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def enlarge(udp: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            udp.setsockopt(socket.SOL_SOCKET, option, UDP_RECEIVE_BYTES)
