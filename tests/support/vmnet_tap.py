"""A namespace as a guest of a network of macOS: what a TAP in it sends goes to a datagram socket, and back."""

from __future__ import annotations

import os
import selectors
import threading
from pathlib import Path

from arcbox_net.attachments import SocketAttachment
from arcbox_net.host.linux.tap import open_queues
from tests.support.netns import Namespace
from tests.support.vmnet_network import DgramGuest


class Pump:
    """Moves frames from one of two descriptors to the other until it is stopped."""

    def __init__(self, one: int, other: int) -> None:
        self._to = {one: other, other: one}
        self._wake, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        os.close(self._stop)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            for fd in (*self._to, self._wake):
                ready.register(fd, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fd == self._wake:
                        return
                    frame = os.read(key.fd, 1 << 16)
                    if frame != b"VFKT":
                        os.write(self._to[key.fd], frame)


class TapGuest(Namespace):
    """Its `tap0` has the port's MAC address, and is up."""

    def __init__(self, label: str, port: SocketAttachment, folder: Path) -> None:
        super().__init__(label)
        (self._tap,) = self.call(
            lambda: open_queues("tap0", 1, vnet_hdr=False, multi_queue=False, create=True)
        )
        os.set_blocking(self._tap, True)
        self.run(f"ip link set tap0 address {port.mac} mtu {port.mtu} up")
        self._dgram = DgramGuest(port.socket, str(folder / f"{port.port}.own"))
        self._dgram.socket.settimeout(None)
        self._pump = Pump(self._tap, self._dgram.socket.fileno())

    def close(self) -> None:
        self._pump.stop()
        self._dgram.socket.close()
        os.close(self._tap)
        super().close()
