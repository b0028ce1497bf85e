"""A small speed measuring tool: TCP throughput and latency, UDP packets per second, connections per second.

    python -m arcbox_net.netspeed server [--host H] [--port N] [--connections-port N]
    python -m arcbox_net.netspeed client HOST PORT [--seconds S] [--streams N] [tcp|reverse|rr|udp|udp-reverse]…
    python -m arcbox_net.netspeed client HOST CONNECTIONS_PORT connections [--streams N] [--count N]

Every test is one TCP connection to the server's port that begins with one JSON line; UDP datagrams go to the
same port number. On the connections port every connection is a byte each way, and the server closes first. Bytes
are counted where they arrive. Payload is never looked at: senders use `sendfile` and receivers discard in the
kernel (`MSG_TRUNC`), so that the network between them is measured, not Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from arcbox_net.relay import probe

BLOCK_BYTES = 4 * 1024 * 1024
RECV_BYTES = 1024 * 1024
HEADER_BYTES_MAX = 4096
SECONDS_MAX = 3600
UDP_RECEIVE_BYTES = 4 * 1024 * 1024
SO_RCVBUFFORCE = 33  # not in `socket`; past net.core.rmem_max, for root
DEFAULT_PORT = 5301
_TIMEOUT_S = 15
CONNECTION_THREADS = 16
TESTS = ("tcp", "reverse", "rr", "udp")  # without an argument
MORE_TESTS = ("udp-reverse", "connections")


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
            _tune(connection)
            request = _read_line(connection)
            test = request["test"]
            if test == "up":
                connection.sendall(b"ok\n")
                _send_line(connection, _drain(connection))
            elif test == "down":
                _fill(connection, min(float(request["seconds"]), SECONDS_MAX))
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
        _send_line(connection, {"packets": count, "bytes": total})

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
        _send_line(connection, {"sent": sent, "seconds": elapsed})


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


def measure_tcp(
    host: str, port: int, *, seconds: float, streams: int = 1, reverse: bool = False
) -> dict[str, Any]:
    """Throughput of *streams* connections together: towards the server, or from it when *reverse*."""
    results: list[dict[str, Any]] = []
    failures: list[Exception] = []
    together = threading.Barrier(streams)

    def one() -> None:
        try:
            with _connect(host, port) as connection:
                together.wait(_TIMEOUT_S)
                run = _download if reverse else _upload
                results.append(run(connection, seconds))
        except (OSError, ValueError, threading.BrokenBarrierError) as exc:
            failures.append(exc)
            together.abort()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((exc for exc in failures if isinstance(exc, OSError)), failures[0])
    total = sum(result["bytes"] for result in results)
    elapsed = max(result["seconds"] for result in results)
    return {
        "gbit_s": total * 8 / elapsed / 1e9,
        "bytes": total,
        "seconds": elapsed,
        "streams": streams,
        "reverse": reverse,
    }


def measure_rr(host: str, port: int, *, size: int, count: int) -> dict[str, Any]:
    """Latency of *count* exchanges of *size* bytes each way on one connection, after a short warm-up."""
    with _connect(host, port) as connection:
        _ask(connection, test="rr", size=size)
        probe.rr_client(connection.fileno(), size, max(count // 20, 1))
        times = probe.rr_client(connection.fileno(), size, count)
    ordered = sorted(times)
    return {
        "p50_us": ordered[len(ordered) // 2] / 1000,
        "p99_us": ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] / 1000,
        "min_us": ordered[0] / 1000,
        "size": size,
        "count": count,
    }


def measure_udp(
    host: str,
    port: int,
    *,
    seconds: float,
    size: int = 64,
    rate_pps: float = 0.0,
    udp_port: int | None = None,
) -> dict[str, Any]:
    """Datagrams sent for *seconds* (as fast as possible, or *rate_pps*) and how many of them arrived."""
    token = secrets.token_bytes(8)
    with _connect(host, port) as control:
        _ask(control, test="udp", token=token.hex())
        family = control.family
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.connect((host, udp_port if udp_port is not None else port))
            begin = time.monotonic()
            sent = probe.udp_send(sender.fileno(), token, size, seconds, rate_pps)
            elapsed = time.monotonic() - begin
        control.sendall(b"end\n")
        answer = _read_line(control)
    return _udp_result(sent, answer["packets"], elapsed, size)


def measure_udp_reverse(
    host: str, port: int, *, seconds: float, size: int = 64, rate_pps: float = 0.0
) -> dict[str, Any]:
    """`measure_udp` with the server as the sender."""
    token = secrets.token_bytes(8)
    with _connect(host, port) as control, socket.socket(control.family, socket.SOCK_DGRAM) as receiver:
        _enlarge(receiver)
        receiver.connect((host, port))
        _ask(control, test="udp-down", token=token.hex(), seconds=seconds, size=size, rate_pps=rate_pps)
        receiver.send(token)
        delivered, _ = probe.udp_count(receiver.fileno(), control.fileno(), token)
        answer = _read_line(control)
    return _udp_result(answer["sent"], delivered, answer["seconds"], size)


def measure_connections(host: str, port: int, *, parallel: int, count: int) -> dict[str, Any]:
    """Connections a second of *parallel* clients that open *count* together, one after the other each."""
    address = socket.inet_aton(socket.gethostbyname(host))
    each = max(1, count // parallel)
    failures: list[OSError] = []

    def one() -> None:
        try:
            probe.connect_many(address, port, each)
        except OSError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(parallel)]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - begin
    if failures:
        raise failures[0]
    return {"per_s": each * parallel / elapsed, "parallel": parallel, "count": each * parallel}


def _udp_result(sent: int, delivered: int, seconds: float, size: int) -> dict[str, Any]:
    return {
        "sent_pps": sent / seconds,
        "delivered_pps": delivered / seconds,
        "loss": 1 - delivered / sent if sent else 0.0,
        "sent": sent,
        "delivered": delivered,
        "size": size,
        "seconds": seconds,
    }


def _first_sender(udp: socket.socket, token: bytes) -> Any:
    """Where the first datagram that is *token* comes from."""
    udp.settimeout(_TIMEOUT_S)
    try:
        while True:
            payload, sender = udp.recvfrom(len(token) + 1)
            if payload == token:
                return sender
    finally:
        udp.settimeout(None)


def _enlarge(udp: socket.socket) -> None:
    for option in (socket.SO_RCVBUF, SO_RCVBUFFORCE):
        with contextlib.suppress(PermissionError):
            udp.setsockopt(socket.SOL_SOCKET, option, UDP_RECEIVE_BYTES)


def _bind_pair(family: int, host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A TCP listener and a UDP socket on the same port number; with port 0 a number that both have free."""
    for attempt in range(16):
        listener = socket.create_server((host, port), family=family, backlog=1024)
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            _enlarge(udp)
            udp.bind((host, listener.getsockname()[1]))
            return listener, udp
        except OSError:
            listener.close()
            udp.close()
            if port or attempt == 15:
                raise
    raise AssertionError("unreachable")


def _connect(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port), timeout=_TIMEOUT_S)
    _tune(connection)
    return connection


def _tune(connection: socket.socket) -> None:
    """Blocking, with the kernel's own timeouts, as sendfile and the compiled loops need it."""
    connection.settimeout(None)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", _TIMEOUT_S, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with contextlib.suppress(OSError, AttributeError):  # a host's default may be bbr, which paces
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def _ask(connection: socket.socket, **request: Any) -> None:
    _send_line(connection, request)
    if connection.recv(3, socket.MSG_WAITALL) != b"ok\n":
        raise ConnectionError("the server refused the test")


def _send_line(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _read_line(connection: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        chunk = connection.recv(1)  # byte by byte: what follows the line belongs to the test
        if not chunk or len(line) >= HEADER_BYTES_MAX:
            raise ConnectionError("the connection ended before a complete line")
        line += chunk
        if line == b"end\n":
            line = b""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _upload(connection: socket.socket, seconds: float) -> dict[str, Any]:
    _ask(connection, test="up")
    _fill(connection, seconds)
    return _read_line(connection)


def _download(connection: socket.socket, seconds: float) -> dict[str, Any]:
    _send_line(connection, {"test": "down", "seconds": seconds})
    return _drain(connection)


def _fill(connection: socket.socket, seconds: float) -> None:
    """Send for *seconds*, then FIN."""
    end = time.monotonic() + seconds
    with _block() as block:
        while time.monotonic() < end:
            os.sendfile(connection.fileno(), block, 0, BLOCK_BYTES)
    connection.shutdown(socket.SHUT_WR)


def _drain(connection: socket.socket) -> dict[str, Any]:
    """Discard until FIN; the time runs from the first byte."""
    buffer = bytearray(RECV_BYTES)
    total = connection.recv_into(buffer, 1)
    begin = time.monotonic()
    while count := connection.recv_into(buffer, RECV_BYTES, socket.MSG_TRUNC):
        total += count
    return {"bytes": total, "seconds": max(time.monotonic() - begin, 1e-9)}


@contextlib.contextmanager
def _block() -> Iterator[int]:
    """A file in memory that sendfile reads from."""
    fd = os.memfd_create("netspeed", os.MFD_CLOEXEC)
    try:
        os.write(fd, bytes(BLOCK_BYTES))
        yield fd
    finally:
        os.close(fd)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m arcbox_net.netspeed", description="Measure a network.")
    roles = parser.add_subparsers(dest="role", required=True)
    server = roles.add_parser("server", help="serve tests until interrupted")
    server.add_argument("--host", default="0.0.0.0")
    server.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes any free port")
    server.add_argument("--connections-port", type=int, help="serve the connections test there, too")
    client = roles.add_parser("client", help="run tests and print JSON")
    client.add_argument("host")
    client.add_argument("port", type=int)
    client.add_argument(
        "tests", nargs="*", metavar="|".join([*TESTS, *MORE_TESTS]), help="default: the first four"
    )
    client.add_argument("--seconds", type=float, default=2.0)
    client.add_argument("--streams", type=int, default=1)
    client.add_argument("--size", type=int, default=1, help="bytes of a request and response")
    client.add_argument("--count", type=int, default=5000, help="exchanges of the rr test, or connections")
    client.add_argument("--datagram", type=int, default=64, help="bytes of a datagram")
    client.add_argument("--rate", type=float, default=0.0, help="datagrams per second; 0: no limit")
    arguments = parser.parse_args(argv)
    if arguments.role == "server":
        if arguments.connections_port is not None:
            where = (arguments.host, arguments.connections_port)
            threading.Thread(target=serve_connections, args=where, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            run_server(
                arguments.host, arguments.port, lambda port: print(json.dumps({"port": port}), flush=True)
            )
        return 0
    known = (*TESTS, *MORE_TESTS)
    if unknown := [test for test in arguments.tests if test not in known]:
        parser.error(f"unknown test {unknown[0]!r}: expected one of {', '.join(known)}")
    return _run_client(arguments, arguments.tests or list(TESTS))


def _run_client(arguments: argparse.Namespace, tests: list[str]) -> int:
    where = (arguments.host, arguments.port)
    tcp = {"seconds": arguments.seconds, "streams": arguments.streams}
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "tcp": lambda: measure_tcp(*where, **tcp),
        "reverse": lambda: measure_tcp(*where, **tcp, reverse=True),
        "rr": lambda: measure_rr(*where, size=arguments.size, count=arguments.count),
        "udp": lambda: measure_udp(
            *where, seconds=arguments.seconds, size=arguments.datagram, rate_pps=arguments.rate
        ),
        "udp-reverse": lambda: measure_udp_reverse(
            *where, seconds=arguments.seconds, size=arguments.datagram, rate_pps=arguments.rate
        ),
        "connections": lambda: measure_connections(*where, parallel=arguments.streams, count=arguments.count),
    }
    try:
        print(json.dumps({test: runs[test]() for test in tests}, indent=2))
    except OSError as exc:
        print(f"netspeed: {arguments.host} port {arguments.port}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
