"""What our listeners on the event loop have in common: a rule's ports of the host, the flows by them, and counts."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar

from arcbox_net.network.flow_table import FlowTable
from arcbox_net.recipes.host_ports import close, hold
from arcbox_net.rules import ForwardRule

COUNTERS = (  # named as those of the splice relay
    "accepted",
    "refused_limit",
    "connect_failed",
    "idle_timeout",
    "bytes_in",
    "bytes_out",
    "datagrams_in",
    "datagrams_out",
    "dropped",
)


class Flow(Protocol):
    def end(self) -> None:
        """Give back all that it has, at once."""
        ...


K = TypeVar("K", bound=Hashable)
F = TypeVar("F", bound=Flow)


class Listening(ABC, Generic[K, F]):
    """Holds the host's ports from `open` on, and passes on what comes while it is aimed at a guest."""

    def __init__(self, rule: ForwardRule, flows_max: int, idle_s: float) -> None:
        self.rule = rule
        self.counts = Counter(dict.fromkeys(COUNTERS, 0))
        self.guest: str | None = None
        self.flows: FlowTable[K, F] = FlowTable(flows_max, idle_s)
        self._held: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Raises HostPortInUse, PermissionDenied, LimitReached, ConfigError; then nothing is held."""
        self._held = hold(self.rule)

    @abstractmethod
    async def aim(self, guest: str | None) -> None:
        """Lead what is new to that address; None: nobody is there."""

    async def close(self) -> None:
        """End every flow and free the host's ports."""
        self.guest = None
        self._end_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        close(self._held)
        self._held = []

    def stats(self) -> dict[str, int]:
        return {"active": len(self.flows), **self.counts}

    def admit(self, key: K, flow: F) -> None:
        loop = asyncio.get_running_loop()
        self.flows.add(key, flow, loop.time())
        self.counts["accepted"] += 1
        if self._timer is None:
            self._await_silence(loop)

    def touch(self, key: K) -> None:
        self.flows.touch(key, asyncio.get_running_loop().time())

    def _held_for(self) -> list[tuple[socket.socket, int]]:
        """Each port of the host that is held, with the guest's port that it is for."""
        guest_ports = (guest_port for _, guest_port in self.rule.pairs())
        return list(zip(self._held, guest_ports, strict=False))  # none, if `open` failed

    def _end_all(self) -> None:
        for flow in self.flows.take_all():
            flow.end()

    def _await_silence(self, loop: asyncio.AbstractEventLoop) -> None:
        end = self.flows.next_end
        self._timer = loop.call_at(end, self._end_idle) if end is not None else None

    def _end_idle(self) -> None:
        loop = asyncio.get_running_loop()
        for flow in self.flows.take_idle(loop.time()):
            self.counts["idle_timeout"] += 1
            flow.end()
        self._await_silence(loop)
