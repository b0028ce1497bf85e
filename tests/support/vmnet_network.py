"""Networks of macOS on this machine: `NetworkManager`s whose process is `vmnet_main`, and who is at both ends."""

from __future__ import annotations

import array
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from arcbox_net import network_process
from tests.support.netns import PATIENCE_S
from tests.support.vmnet import ROOT, build

MAIN = "tests.support.vmnet_main"


class Mac:
    """A directory that is a Mac to the networks started below it."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        build()
        self.place = place
        self._monkeypatch = monkeypatch
        for name, text in {
            "ARCBOX_NET_RUNTIME_DIR": str(place / "run"),
            "ARCBOX_NET_STATE_DIR": str(place / "state"),
            "ARCBOX_STANDIN": str(place),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}",
        }.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setattr(network_process, "PROCESS", MAIN)

    def release(self, number: int, *, privileged: bool = True) -> None:
        self._monkeypatch.setenv("ARCBOX_STANDIN_RELEASE", str(number))
        self._monkeypatch.setenv("ARCBOX_STANDIN_PRIVILEGED", "1" if privileged else "0")

    def fails(self, **functions: tuple[int, int]) -> None:
        """Have functions of vmnet end with a status, so many times."""
        self._monkeypatch.setenv("ARCBOX_STANDIN_FAILS", json.dumps(functions))

    def leases(self, *entries: dict[str, str]) -> None:
        """Write the system's lease file."""
        lines = [
            "{\n" + "".join(f"\t{key}={value}\n" for key, value in entry.items()) + "}\n" for entry in entries
        ]
        (self.place / "leases.new").write_text("".join(lines))
        os.rename(self.place / "leases.new", self.place / "leases")

    def ask(self, name: str, *arguments: object) -> Any:
        """What the stand-in answers, in the process of the network that was started last."""
        with self._call(name, *arguments) as connection:
            return json.loads(connection.recv(1 << 16))

    def far_end(self) -> socket.socket:
        """What is beyond the interface that was started last: a packet each message, with a header of 12 bytes."""
        with self._call("far_end") as connection:
            fds = array.array("i")
            _, ancillary, *_ = connection.recvmsg(16, socket.CMSG_LEN(fds.itemsize))
            fds.frombytes(ancillary[0][2])
        end = socket.socket(fileno=fds[0])
        end.settimeout(PATIENCE_S)
        return end

    def _call(self, *words: object) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(PATIENCE_S)
        connection.connect(str(self.place / "control"))
        connection.sendall(json.dumps(words).encode())
        return connection


class DgramGuest:
    """What vfkit is to a network: a datagram socket, with its own path, that sends frames."""

    def __init__(self, socket_path: str, own_path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.bind(own_path)
        self.socket.connect(socket_path)
        self.socket.send(b"VFKT")

    def send(self, frame: bytes) -> None:
        self.socket.send(frame)

    def receive(self) -> bytes:
        while (frame := self.socket.recv(1 << 16)) == b"VFKT":
            pass
        return frame
