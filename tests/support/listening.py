"""Listeners of the network process on an event loop of their own, between real loopback sockets."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from arcbox_net.network.listening import Listening
from arcbox_net.network.tcp_forward import TcpForward
from arcbox_net.network.udp_forward import UdpForward
from arcbox_net.rules import ForwardRule, parse_forward
from tests.support import relay

# No system gives them to those who ask for any port; test_splice.py has the next ten thousand.
FIRST, COUNT = 10_000, 10_000
T = TypeVar("T")
_tried = itertools.count(os.getpid() * 101)


def taken(protocol: str, port: int, host: str = "127.0.0.1") -> socket.socket:
    """Raises OSError: somebody has it."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    try:
        if protocol == "tcp":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # whatever connections it had
        held.bind((host, port))
        if protocol == "tcp":
            held.listen()
    except OSError:
        held.close()
        raise
    return held


def is_free(protocol: str, port: int, host: str = "127.0.0.1") -> bool:
    try:
        taken(protocol, port, host).close()
    except OSError:
        return False
    return True


def free_port(host: str = "127.0.0.1", size: int = 1) -> int:
    """The first of *size* ports that nobody has, of TCP and UDP, and that nobody gets who does not ask for them."""
    for attempt in _tried:
        first = FIRST + attempt % COUNT
        if all(
            is_free(protocol, port, host)
            for port in range(first, first + size)
            for protocol in ("tcp", "udp")
        ):
            return first
    raise AssertionError


def rule_to(target: socket.socket, protocol: str, host: str = "127.0.0.1") -> ForwardRule:
    """From a free port of the loopback to the port of *target*."""
    at = f"[{host}]" if ":" in host else host
    return parse_forward(f"{at}:{free_port(host)}:{target.getsockname()[1]}/{protocol}")


class Served:
    """A listener and its loop, in a thread: `stats` and `stop` as the splice relay has them."""

    def __init__(self, listening: Listening[Any, Any], guest: str | None) -> None:
        self.listening = listening
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.call(listening.open())
        self.call(listening.aim(guest))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(relay.DEADLINE_S)

    def stats(self) -> dict[str, int]:
        return self.listening.stats()

    def close(self) -> None:
        self.call(self.listening.close())

    def stop(self) -> None:
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class LoopTcpForward(relay.TcpForward):
    """As that of the splice relay, by the listener of an event loop."""

    relay: Served

    def __init__(
        self, host: str = "127.0.0.1", *, target: socket.socket | None = None, **options: Any
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.target = target or socket.create_server((host, 0), family=family, backlog=1024)
        self.target.settimeout(relay.DEADLINE_S)
        self.host = host
        rule = rule_to(self.target, "tcp", host)
        self.port = rule.host_port
        self.relay = Served(TcpForward(rule, **options), host)
        self._open = [self.target]


class LoopUdpForward(relay.UdpForward):
    relay: Served

    def __init__(self, host: str = "127.0.0.1", **options: Any) -> None:
        self.host = host
        self.target = roomy(relay.udp_socket(host))
        rule = rule_to(self.target, "udp", host)
        self.port = rule.host_port
        self.relay = Served(UdpForward(rule, **options), host)

    def client(self) -> socket.socket:
        made = roomy(relay.udp_socket(self.host))
        made.connect((self.host, self.port))
        return made


def roomy(dgram: socket.socket) -> socket.socket:
    """One that macOS, too, has send the largest datagrams."""
    dgram.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
    return dgram
