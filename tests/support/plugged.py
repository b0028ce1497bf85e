"""A guest at a stream socket without a machine: a namespace with a TAP, and a worker of the test in place of QEMU."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Any

from arcbox_net.dataplane.worker import Worker
from arcbox_net.ports.socket_port import PEER_CONNECT, PEER_DISCONNECT
from arcbox_net.ports.stream import StreamPort
from arcbox_net.ports.tap import TapPort
from tests.support.datapath import QueueLine, open_tap
from tests.support.netns import Namespace

FRAME_MAX = 1514


class PluggedGuest(Namespace):
    """*info* is what `attach` said of the port, *gateway* where packets leave. `plug` connects, as often as wanted."""

    def __init__(self, label: str, info: Mapping[str, Any], gateway: str) -> None:
        super().__init__(label)
        self.ip = str(info["ip"])
        self._socket = str(info["socket"])
        self._worker = Worker(name=label)
        self._worker.start()
        line = QueueLine(self._worker)
        (fd,) = open_tap(self, f"{self.ip}/24")
        self.run(f"ip link set tap0 address {info['mac']}")
        self.run(f"ip route add default via {gateway}")
        tap = line.add(TapPort(frame_max=FRAME_MAX, offloads=False), fd)
        self._port = line.add(StreamPort(frame_max=FRAME_MAX))
        line.join(tap, self._port)

    def plug(self) -> None:
        with contextlib.suppress(OSError):  # who was there before is gone already, most often
            self._worker.send(self._port, PEER_DISCONNECT)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._socket)
            self._worker.send(self._port, PEER_CONNECT, struct.pack("i", connection.fileno()))
            connection.detach()

    def close(self) -> None:
        self._worker.stop()
        super().close()
