"""Who is at the other end of a socket, in both structures that kernels have for it."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from arcbox_net.credentials import LOCAL_PEERCRED, LOCAL_PEERPID, SOL_LOCAL, peer_credentials, unpack_xucred

XUCRED = struct.Struct("=IIh2x16I")


def xucred(uid: int, version: int = 0) -> bytes:
    return XUCRED.pack(version, uid, 1, 20, *[0] * 15)


class MacSocket:
    """A connection of macOS."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes | int:
        assert level == SOL_LOCAL
        if option == LOCAL_PEERCRED:
            return xucred(501)[:size]
        assert option == LOCAL_PEERPID
        if self._pid is None:
            raise OSError(57, "Socket is not connected")
        return self._pid


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="Linux's")
def test_linux_says_pid_and_uid() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert peer_credentials(one) == (os.getpid(), os.geteuid())


@pytest.mark.parametrize("pid", [77, None])
def test_macos_says_the_uid_and_the_pid_while_there_is_one(
    monkeypatch: pytest.MonkeyPatch, pid: int | None
) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    assert peer_credentials(MacSocket(pid)) == (pid or 0, 501)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw", [b"", xucred(0)[:-1], xucred(0, version=1)], ids=["empty", "short", "version"]
)
def test_credentials_that_are_none_let_nobody_in(raw: bytes) -> None:
    with pytest.raises(OSError):
        unpack_xucred(raw)


def test_a_large_uid_is_no_negative_one() -> None:
    assert unpack_xucred(xucred((1 << 32) - 2)) == (1 << 32) - 2
