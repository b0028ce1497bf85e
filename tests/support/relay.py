"""A relay between real loopback sockets: both ends of a forwarded connection in the test's hands."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

DEADLINE_S = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll *condition* until it holds; a deadline is a failure."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.002)


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    chunks = []
    while size:
        chunk = sock.recv(min(size, 1 << 20))
        if not chunk:
            raise EOFError(f"{size} bytes missing")
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def send_and_end(sock: socket.socket, payload: bytes) -> threading.Thread:
    """Send all of *payload* and the end of the stream, from a thread."""

    def send() -> None:
        sock.sendall(payload)
        sock.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def is_reset(sock: socket.socket) -> bool:
    """Read to the end; whether the end was a RST."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def splice_relay(**options: int) -> Any:
    """Imported only now, because the rest here is for macOS too."""
    from arcbox_net.relay.splice import SpliceRelay

    return SpliceRelay(**options)


class TcpForward:
    """A relay with one TCP rule from a listener of ours to a target that the test accepts on."""

    def __init__(self, host: str = "127.0.0.1", **options: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.target = socket.create_server((host, 0), family=family, backlog=1024)
        self.target.settimeout(DEADLINE_S)
        self.relay = splice_relay(**options)
        self.relay.start()
        self.host = host
        self.target_address: tuple[str, int] = (host, self.target.getsockname()[1])
        self.rule, self.port = self.add(self.target_address)
        self._open: list[socket.socket] = [self.target]

    def add(self, target: tuple[str, int]) -> tuple[int, int]:
        """One more rule; its id and host port."""
        listener = socket.create_server((self.host, 0), family=self.target.family, backlog=4096)
        host_port: int = listener.getsockname()[1]
        return self.relay.add_tcp(listener.detach(), target), host_port

    def dial(self, port: int | None = None) -> socket.socket:
        client = socket.create_connection((self.host, port or self.port), timeout=DEADLINE_S)
        self._open.append(client)
        return client

    def dial_is_reset(self, port: int | None = None) -> bool:
        """Whether a client is reset; a quick RST comes out of connect() already."""
        try:
            return is_reset(self.dial(port))
        except ConnectionResetError:
            return True

    def accept(self) -> socket.socket:
        served, _ = self.target.accept()
        served.settimeout(DEADLINE_S)
        self._open.append(served)
        return served

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The client's socket and the target's, joined by the relay."""
        client = self.dial()
        return client, self.accept()

    def stat(self, name: str) -> int:
        return self.relay.stats()[name]

    def wait_for(self, name: str, value: int) -> None:
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.stat(name) == value, name)
        assert self.stat(name) == value, f"{name}: {self.relay.stats()}"

    def __enter__(self) -> TcpForward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self._open:
            sock.close()
        self.relay.stop()


class UdpForward:
    """A relay with one UDP rule; *bind* may be a wildcard address."""

    def __init__(self, bind: str = "127.0.0.1", target: str = "127.0.0.1", **options: int) -> None:
        self.target = udp_socket(target)
        self.relay = splice_relay(**options)
        self.relay.start()
        bound = udp_socket(bind)
        self.port: int = bound.getsockname()[1]
        self.rule = self.relay.add_udp(bound.detach(), (target, self.target.getsockname()[1]))

    def stat(self, name: str) -> int:
        return self.relay.stats()[name]

    def wait_for(self, name: str, value: int) -> None:
        wait_until(lambda: self.stat(name) == value, f"{name} = {value}: {self.relay.stats()}")

    def __enter__(self) -> UdpForward:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.target.close()
        self.relay.stop()


def udp_socket(host: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    sock.settimeout(DEADLINE_S)
    return sock
