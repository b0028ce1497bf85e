"""Who is at the other end of a unix socket. Both ends of api.sock and fd.sock ask, whatever the folders' modes are."""

from __future__ import annotations

import os
import socket

from arcbox_net import paths
from arcbox_net.credentials import peer_credentials
from arcbox_net.errors import PermissionDenied


def check_peer(connection: socket.socket) -> None:
    """Raises PermissionDenied unless the peer is this process's user or root.

    Root is nobody to a network that has a user namespace of its own: such a network is its user's alone.
    """
    _, uid = peer_credentials(connection)
    if uid not in (0, os.geteuid()):
        raise PermissionDenied(f"uid {uid} may not control this network", operation="connect")


def networks_to_ask() -> list[str]:
    """Names of the networks that were not taken down, sorted: their socket is there, whether or not anyone listens.

    In a directory that users share, another's are left out.
    """
    try:
        return sorted(name for name in os.listdir(paths.runtime_root()) if _is_to_ask(name))
    except OSError:
        return []


def _is_to_ask(network: str) -> bool:
    try:
        found = os.stat(paths.api_socket(network))
    except OSError:
        return False
    return _is_trusted(found.st_uid)


def _is_trusted(uid: int) -> bool:
    return os.geteuid() == 0 or uid in (0, os.geteuid())


def check_server(connection: socket.socket, path: object) -> None:
    """Raises PermissionDenied when somebody else listens at *path*, as anybody may below /tmp. Root asks everybody."""
    _, uid = peer_credentials(connection)
    if not _is_trusted(uid):
        raise PermissionDenied(
            f"{path}: uid {uid} listens there, which is somebody else",
            fix="remove it, or set XDG_RUNTIME_DIR to a directory of your own",
            operation="connect",
        )
