"""The side that serves tests: a thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from arcbox_net.netspeed.bulk import drain, fill
from arcbox_net.netspeed.control import TIMEOUT_S, enlarge, read_line, send_line, tune
from arcbox_net.relay import probe

SECONDS_MAX = 3600
CONNECTION_THREADS = 16


class SpeedServer:
    """Serves tests on *host*:*port* (0: any free port) until `close()`; a thread for each connection."""

    def __init__(self, host: str = "0.0.0.0", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener, self._udp = _bind_pair(family, host, port)
        self.port: int = self._listener.getsockname()[1]
        self._udp_turn = threading.Lock()
        self._closing = False

    def start(self) -> None:
        threading.Thread(target=self.serve, name="netspeed", daemon=True).start()

    def serve(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing:
                    return
                time.sleep(0.1)  # out of descriptors: the tests under way go on
                continue
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._udp.close()

    def __enter__(self) -> SpeedServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            tune(connection)
            request = read_line(connection)
            test = request["test"]
            if test == "up":
                connection.sendall(b"ok\n")
                send_line(connection, drain(connection))
            elif test == "down":
                fill(connection, min(float(request["seconds"]), SECONDS_MAX))
            elif test == "rr":
                connection.sendall(b"ok\n")
                probe.rr_server(connection.fileno(), int(request["size"]))
            elif test == "udp":
                self._count(connection, bytes.fromhex(request["token"]))
            elif test == "udp-down":
                self._send(connection, request)

    def _count(self, connection: socket.socket, token: bytes) -> None:
        with self._udp_turn:  # one UDP test at a time: two would only measure each other
            connection.sendall(b"ok\n")
            count, total = probe.udp_count(self._udp.fileno(), connection.fileno(), token)
        send_line(connection, {"packets": count, "bytes": total})

    def _send(self, connection: socket.socket, request: dict[str, Any]) -> None:
        """Datagrams to where the client's own first one comes from, with the address that it was sent to."""
        token = bytes.fromhex(request["token"])
        with self._udp_turn, socket.socket(self._udp.family, socket.SOCK_DGRAM) as sender:
            connection.sendall(b"ok\n")
            peer = _first_sender(self._udp, token)
            for held in (self._udp, sender):
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.bind((connection.getsockname()[0], self.port))
            sender.connect(peer)
            begin = time.monotonic()
            seconds = min(float(request["seconds"]), SECONDS_MAX)
            sent = probe.udp_send(
                sender.fileno(), token, int(request["size"]), seconds, float(request["rate_pps"])
            )
            elapsed = time.monotonic() - begin
        send_line(connection, {"sent": sent, "seconds": elapsed})


def serve_connections(host: str, port: int) -> None:
    """Answer a byte on each connection and close it, for ever."""
    listener = socket.create_server((host, port), backlog=1024)
    for _ in range(CONNECTION_THREADS):
        threading.Thread(target=probe.accept_many, args=(listener.fileno(),), daemon=True).start()
    threading.Event().wait()


def run_server(host: str, port: int, ready: Callable[[int], None] | None = None) -> None:
    """Serve for ever; *ready* is called with the port number once connections are taken."""
    server = SpeedServer(host, port)
    if ready is not None:
        ready(server.port)
    try:
        server.serve()
    finally:
        server.close()


def _first_sender(udp: socket.socket, token: bytes) -> Any:
    """Where the first datagram that is *token* comes from."""
    udp.settimeout(TIMEOUT_S)
    try:
        while True:
            payload, sender = udp.recvfrom(len(token) + 1)
            if payload == token:
                return sender
    finally:
        udp.settimeout(None)


def _bind_pair(family: int, host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP listener and a UDP socket on the same port number; with port 0 a number that both have free."""
    for attempt in range(16):
        listener = socket.create_server((host, port), family=family, backlog=1024)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            enlarge(udp)
            udp.bind((host, listener.getsockname()[1]))
            return listener, udp
        except OSError:
            listener.close()
            udp.close()
            if port or attempt == 15:
                raise
    raise AssertionError("unreachable")
