"""Who is at the other end of a unix socket, as the kernel says: struct ucred, or where there is none, struct xucred."""

from __future__ import annotations

import socket
import struct

_UCRED = struct.Struct("=iII")  # pid, uid, gid
UCRED_BYTES = _UCRED.size
SOL_LOCAL = 0
LOCAL_PEERCRED = 1
LOCAL_PEERPID = 2
XUCRED_VERSION = 0
_XUCRED = struct.Struct("=IIh2x16I")  # version, uid, number of groups, groups


def peer_credentials(connection: socket.socket) -> tuple[int, int]:
    """The pid (0: not known) and the uid of whoever connected, or listens. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):
        return unpack_ucred(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED_BYTES))
    uid = unpack_xucred(connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, _XUCRED.size))
    try:
        return connection.getsockopt(SOL_LOCAL, LOCAL_PEERPID), uid
    except OSError:  # it has ended
        return 0, uid


def unpack_ucred(raw: bytes) -> tuple[int, int]:
    """The pid and the uid."""
    pid, uid, _ = _UCRED.unpack(raw)
    return pid, uid


def unpack_xucred(raw: bytes) -> int:
    """The uid. Raises OSError for a structure of another kind: nobody is let in by mistake."""
    if len(raw) < _XUCRED.size:
        raise OSError(0, f"{len(raw)} bytes of credentials")
    version, uid, *_ = _XUCRED.unpack(raw[: _XUCRED.size])
    if version != XUCRED_VERSION:
        raise OSError(0, f"credentials of version {version}")
    return int(uid)
