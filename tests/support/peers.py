"""Servers that tests talk to from both sides: HTTP, TCP with half-close, UDP echo, a DNS upstream, iperf3.

Each runs in a namespace: its sockets are made there, and threads of the test run serve them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.netns import PATIENCE_S, Namespace, wait_until

CHUNK = bytes(range(256)) * 256
SILENCE_S = 1.0  # how long to listen for what is expected not to come
REPEAT_S = 1.0  # between datagrams of which one is to be answered


def body_of(size: int) -> bytes:
    """The *size* bytes that `GET /bytes/SIZE` returns."""
    return (CHUNK * (size // len(CHUNK) + 1))[:size]


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/bytes/"):
            self._answer(body_of(int(self.path.removeprefix("/bytes/"))))
        else:
            self._answer(f"{self.client_address[0]}\n".encode())

    def do_POST(self) -> None:
        received = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(hashlib.sha256(received).hexdigest().encode())

    do_PUT = do_POST

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away are part of many tests


class _Http6(_Http):
    address_family = socket.AF_INET6


class _Drain(socketserver.StreamRequestHandler):
    """Reads until the client's end, and only then answers with the digest of all of it, and 1 MiB."""

    def handle(self) -> None:
        digest = hashlib.sha256()
        while received := self.rfile.read(65536):
            digest.update(received)
        self.wfile.write(digest.hexdigest().encode() + b"\n" + body_of(1 << 20))


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def http_server(where: Namespace, port: int = 80, address: str = "0.0.0.0") -> Iterator[None]:
    """GET / answers the client's address, GET /bytes/N that many bytes, POST the SHA-256 of the body."""
    kind = _Http6 if ":" in address else _Http
    with _serving(where.call(lambda: kind((address, port), _Handler))):
        yield


@contextlib.contextmanager
def drain_server(where: Namespace, port: int, address: str = "0.0.0.0") -> Iterator[None]:
    """A server that answers only after the client's half-close."""
    with _serving(where.call(lambda: _Tcp((address, port), _Drain))):
        yield


@contextlib.contextmanager
def listening(where: Namespace, l4_port: int, address: str = "0.0.0.0") -> Iterator[socket.socket]:
    """A listener in *where*, with a timeout on what it accepts."""

    def made() -> socket.socket:
        listener = socket.socket(family_of(address), socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, l4_port))
        listener.listen(128)
        listener.settimeout(PATIENCE_S)
        return listener

    with where.call(made) as listener:
        yield listener


@contextlib.contextmanager
def udp_echo(where: Namespace, port: int, address: str = "0.0.0.0") -> Iterator[None]:
    """Sends each datagram back, with the address it came from in front."""

    def bound() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(0.1)
        return made

    with where.call(bound) as server:
        ending = threading.Event()

        def serve() -> None:
            while not ending.is_set():
                with contextlib.suppress(OSError):
                    datagram, client = server.recvfrom(65536)
                    server.sendto(f"{client[0]} ".encode() + datagram, client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join()


@contextlib.contextmanager
def dns_server(where: Namespace, address: str, directory: Path, *options: str) -> Iterator[Path]:
    """A DNS server that knows `*.test` as its own address; yields the log of the queries it got."""
    log = directory / f"dns-{address}.log"
    log.touch()
    server = where.popen(
        [
            *["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null"],
            *["--user=root", f"--pid-file={directory / 'dnsmasq.pid'}", "--bind-interfaces"],
            *[f"--listen-address={address}", "--except-interface=lo", f"--address=/test/{address}"],
            *["--txt-record=text.test,hello world", "--log-queries", f"--log-facility={log}", *options],
        ]
    )
    try:
        wait_until(
            lambda: (
                where.run(["dig", "+tries=1", "+time=1", f"@{address}", "up.test"], check=False).returncode
                == 0
            )
        )
        log.write_text("")
        yield log
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def iperf3_server(where: Namespace, port: int = 5201) -> Iterator[None]:
    server = where.popen(["iperf3", "-s", "-p", str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: f":{port}" in where.run("ss -Hltn").stdout)
        yield
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def connect(
    where: Namespace, address: str, port: int, *, timeout: float = PATIENCE_S, source: str = ""
) -> socket.socket:
    """A TCP connection made from *where*, from its address *source*."""
    ours = (source, 0) if source else None
    return where.call(lambda: socket.create_connection((address, port), timeout, ours))


def exchange_udp(
    where: Namespace, address: str, port: int, text: bytes, *, timeout: float = PATIENCE_S
) -> bytes | None:
    """The answer to a datagram that *where* repeats each second until there is one; None after *timeout*."""

    def ask() -> bytes | None:
        with socket.socket(family_of(address), socket.SOCK_DGRAM) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            client.connect((address, port))
            return answer_to(client, text, timeout=timeout)

    return where.call(ask)


def answer_to(client: socket.socket, text: bytes, *, timeout: float = PATIENCE_S) -> bytes | None:
    """As `exchange_udp`, by a socket that is connected. An answer to an earlier text is passed over."""
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        client.settimeout(min(left, REPEAT_S))
        try:
            client.send(text)
            while text not in (answer := client.recv(65536)):
                pass
            return answer
        except TimeoutError:
            continue
        except OSError:  # refused, for now
            time.sleep(min(left, REPEAT_S))
    return None


def refused(where: Namespace, address: str, port: int, *, timeout: float = PATIENCE_S) -> str | None:
    """Why a TCP connection from *where* fails (an errno name or "timeout"), None when it succeeds."""
    import errno

    def ask() -> str | None:
        try:
            socket.create_connection((address, port), timeout=timeout).close()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, str(error))
        return None

    return where.call(ask)


def is_closed(where: Namespace, address: str, port: int) -> bool:
    """Whether a TCP connection from *where* is not accepted, which is soon so or not at all."""
    return refused(where, address, port, timeout=SILENCE_S) is not None
