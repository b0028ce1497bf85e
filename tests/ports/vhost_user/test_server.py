"""Front ends at a port's socket: one at a time, and the port is as new for each."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from arcbox_net.ports.vhost_user.features import FEATURES_OFFERED
from arcbox_net.ports.vhost_user.messages import NEED_REPLY, VERSION, Request
from arcbox_net.ports.vhost_user.strangers import Strangers
from tests.support.descriptors import open_descriptors
from tests.support.netns import PATIENCE_S, wait_until
from tests.support.vhost_port import ServedPort
from tests.support.vhost_user import SLOT_BYTES, number_in, packed, region, table, u64

NOBODY_ASKED = 1 << 63


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE_S)
    client.connect(str(path))
    return client


def offered(client: socket.socket) -> int:
    client.sendall(packed(Request.GET_FEATURES))
    return number_in(client.recv(100))


def test_socket_is_its_owner_s_alone_and_goes_with_the_port(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with ServedPort(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_front_ends_are_served_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with ServedPort(path) as port:
        for _ in range(3):
            with connect(path) as client:
                assert offered(client) == FEATURES_OFFERED
                assert port.is_up
            wait_until(lambda: not port.is_up)


def test_v31_second_front_end_at_once_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with ServedPort(path) as port, connect(path) as first:
        assert offered(first) == FEATURES_OFFERED
        with connect(path) as second:
            assert second.recv(1) == b""
        assert offered(first) == FEATURES_OFFERED
        wait_until(lambda: "was refused" in str(port.trouble))


def test_v31_front_end_that_breaks_the_protocol_is_told_apart_and_gone(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with ServedPort(path) as port:
        with connect(path) as client:
            client.sendall(packed(Request.SET_FEATURES, u64(NOBODY_ASKED)))
            assert client.recv(1) == b""
            wait_until(lambda: port.trouble and "not offered" in port.trouble)
        with connect(path) as client:
            assert offered(client) == FEATURES_OFFERED


def test_v29_nobody_is_let_in_while_what_others_sent_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "guest.sock"
    monkeypatch.setattr(Strangers, "are_many", True)
    with ServedPort(path) as port, connect(path) as client:
        wait_until(
            lambda: port.trouble == "cannot accept a client: what earlier front ends sent cannot be closed"
        )
        monkeypatch.setattr(Strangers, "are_many", False)
        assert offered(client) == FEATURES_OFFERED


def test_v29_descriptors_of_a_front_end_go_with_it(tmp_path: Path) -> None:
    path = tmp_path / "guest.sock"
    with ServedPort(path) as port:
        before = open_descriptors()
        with connect(path) as client:
            call = os.eventfd(0, os.EFD_CLOEXEC)
            socket.send_fds(client, [packed(Request.SET_VRING_CALL, u64(0))], [call])
            os.close(call)
            assert offered(client) == FEATURES_OFFERED
        wait_until(lambda: not port.is_up)
        wait_until(lambda: open_descriptors() == before)


def test_front_end_that_goes_on_without_us_leaves_the_reason_for_which_it_was_refused(tmp_path: Path) -> None:
    path, memory = tmp_path / "guest.sock", tmp_path / "memory"
    memory.write_bytes(bytes(SLOT_BYTES))
    with ServedPort(path) as port:
        with connect(path) as client, memory.open("rb") as read_only:
            request = packed(Request.SET_MEM_TABLE, table(region(0)), flags=VERSION | NEED_REPLY)
            socket.send_fds(client, [request], [read_only.fileno()])
            assert number_in(client.recv(100)) == 1
            wait_until(lambda: port.trouble and "may not be written" in port.trouble)
            assert port.is_up
        wait_until(lambda: not port.is_up)
        assert "it had been refused: its memory may not be written" in str(port.trouble)
