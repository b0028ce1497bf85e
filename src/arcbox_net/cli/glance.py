"""A look at the networks that costs next to nothing, for `ls` and for completion.

The manager's client decodes into checked types and takes 60 ms to import; here one GET on each socket and the
JSON as it comes will do.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from arcbox_net import paths
from arcbox_net.errors import PermissionDenied
from arcbox_net.network.peer import check_server, networks_to_ask

TIMEOUT_S = 5.0
ANSWER_BYTES_MAX = 16 << 20


def networks() -> dict[str, dict[str, Any] | None]:
    """Every network of this user by name: its status, or None when its process is dead. All are asked at once."""
    asked = {name: _ask(name, "/v1/network") for name in networks_to_ask()}
    return {name: _answer(connection) for name, connection in asked.items()}


def get(network: str, path: str) -> Any:
    """The decoded answer to GET *path*, None when there is none."""
    return _answer(_ask(network, path))


def _ask(network: str, path: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(paths.api_socket(network)))
        check_server(connection, paths.api_socket(network))
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
    except (OSError, PermissionDenied):
        connection.close()
        return None
    return connection


def _answer(connection: socket.socket | None) -> Any:
    if connection is None:
        return None
    answer = bytearray()
    try:
        with connection:
            while chunk := connection.recv(65536):
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    return None
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        return json.loads(body) if head.split(b" ", 2)[1:2] == [b"200"] else None
    except (OSError, ValueError):
        return None
