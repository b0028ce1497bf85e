"""Interfaces of namespaces as ports of a worker, and TCP connections across it."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from arcbox_net.dataplane.port import Port
from arcbox_net.dataplane.worker import Worker
from arcbox_net.host.linux import tap
from arcbox_net.ports.queues import QUEUE_ADD
from tests.support.line import DEADLINE_S, Line
from tests.support.netns import Namespace

TCP_PORT = 5000


class QueueLine(Line):
    """Between ports that have queues, which are descriptors."""

    def add(self, port: Port, *fds: int) -> int:
        number = super().add(port)
        for fd in fds:
            self.give(number, fd)
        return number

    def give(self, number: int, fd: int) -> None:
        give_queue(self.worker, number, fd)


def give_queue(worker: Worker, number: int, fd: int) -> None:
    worker.send(number, QUEUE_ADD, struct.pack("i", fd))


def open_tap(namespace: Namespace, address: str, *, queues: int = 1, ifname: str = "tap0") -> list[int]:
    """A TAP that is up, with all offloads; the fds of its queues."""

    def open_inside() -> list[int]:
        fds = tap.open_queues(ifname, queues, vnet_hdr=True, multi_queue=queues > 1, create=True)
        for fd in fds:
            tap.set_offloads(fd, tap.OFFLOADS_ALL)
        return fds

    fds = namespace.call(open_inside)
    namespace.run(f"ip addr add {address} dev {ifname} nodad")
    namespace.run(f"ip link set {ifname} up")
    return fds


def transfer(client: Namespace, server: Namespace, address: str, size: int) -> None:
    """Send *size* bytes to *address* and have its peer confirm what it got."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    content = os.urandom(1 << 16) * (size >> 16)
    with server.call(lambda: socket.create_server((address, TCP_PORT), family=family)) as listener:
        listener.settimeout(DEADLINE_S)
        digests: list[bytes] = []

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(DEADLINE_S)
                digest = hashlib.sha256()
                while piece := peer.recv(1 << 18):
                    digest.update(piece)
                digests.append(digest.digest())
                peer.sendall(b"done")

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with client.call(lambda: socket.socket(family, socket.SOCK_STREAM)) as connection:
                connection.settimeout(DEADLINE_S)
                connection.connect((address, TCP_PORT))
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(4) == b"done"
        finally:
            thread.join(DEADLINE_S)
    assert digests == [hashlib.sha256(content).digest()]


def checksum_errors(namespace: Namespace) -> int:
    counters = namespace.json("nstat -j -a -z -s TcpInCsumErrors")
    return int(counters["kernel"]["TcpInCsumErrors"])


@contextmanager
def two_hosts() -> Iterator[tuple[Namespace, Namespace]]:
    one, other = Namespace("one"), Namespace("other")
    try:
        yield one, other
    finally:
        one.close()
        other.close()
