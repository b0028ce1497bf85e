"""Sockets bound for another user, in a folder that is that user's own."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from arcbox_net.errors import ConfigError
from arcbox_net.ports import unix_sockets
from arcbox_net.ports.unix_sockets import BoundSocket, bind_private


@pytest.mark.parametrize("kind", ["link-to-a-file", "link-to-a-socket", "symlink", "file"])
def test_what_somebody_put_in_the_sockets_place_is_not_given_away(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "vm.sock"

    def replaced(unbound: socket.socket, where: str) -> None:
        bind_private(unbound, where)
        path.unlink()
        if kind == "link-to-a-socket":
            bind_private(other, str(victim))
        else:
            victim.write_text("secret")
        if kind == "symlink":
            path.symlink_to(victim)
        elif kind == "file":
            victim.rename(path)
        else:
            path.hardlink_to(victim)

    monkeypatch.setattr(unix_sockets, "bind_private", replaced)
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(ConfigError, match="something else"):
        BoundSocket(str(path), socket.SOCK_STREAM, os.geteuid() + 1)
    assert os.stat(path).st_uid == os.geteuid()


def test_a_user_to_whom_no_socket_can_be_given_is_refused_by_name_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_user(path: str, uid: int, gid: int, **_: bool) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "chown", no_such_user)
    with pytest.raises(ConfigError) as caught:
        BoundSocket(str(tmp_path / "vm.sock"), socket.SOCK_STREAM, os.geteuid() + 1)
    assert caught.value.field == "owner_uid"
    assert not list(tmp_path.iterdir())
