"""Several workers with the same port numbers: a port is in one of them, and in the others a link leads to it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from arcbox_net.dataplane.link import Link, LinkDelivery, LinkEnd, LinkPort
from arcbox_net.dataplane.port import Port, Receiver
from arcbox_net.dataplane.worker import ALL_PORTS, Worker
from arcbox_net.errors import ConfigError, LimitReached
from arcbox_net.memory.pool import PacketPool


class WorkerGroup:
    """One worker for each of *sinks*, which gets what the worker's ports receive, and has a port for every number.

    A link holds *link_capacity* frames (a power of two). `with WorkerGroup(sinks) as group:` starts and stops them.
    """

    def __init__(
        self,
        sinks: Sequence[Receiver],
        pool: PacketPool | None = None,
        spin_us: int | None = None,
        link_capacity: int = 4096,
    ) -> None:
        self.pool = PacketPool() if pool is None else pool
        self.workers = [Worker(self.pool, f"worker-{i}", spin_us) for i in range(len(sinks))]
        self._sinks = list(sinks)
        self._link_capacity = link_capacity
        self._links: dict[tuple[int, int], Link] = {}
        self._homes: dict[int, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the workers, with a link between any two of them."""
        for worker in self.workers:
            worker.start()
        for i in range(len(self.workers)):
            for j, worker in enumerate(self.workers):
                if i != j:
                    link = self._links[i, j] = Link(self.pool, self._link_capacity)
                    # The highest numbers are the links' ends, and lead nowhere in the other workers.
                    worker.add(LinkEnd(link), LinkDelivery(), ALL_PORTS - 1 - i)

    def stop(self) -> None:
        """Stop the workers, and release what was on its way."""
        for worker in self.workers:
            worker.stop()
        for link in self._links.values():
            link.drain()
        self._links.clear()
        self._homes.clear()

    def add(self, port: Port, home: int | None = None) -> int:
        """Add *port* to the worker at *home*, or to the one with the fewest. Return its number, in all workers."""
        with self._lock:
            if home is None:
                homes = list(self._homes.values())
                home = min(range(len(self.workers)), key=homes.count)
            number = self._free_number()
            self.workers[home].add(port, self._sinks[home], number)
            self._homes[number] = home
            for i, worker in enumerate(self.workers):
                if i != home:
                    worker.add(LinkPort(self._links[i, home], port), self._sinks[i], number)
        return number

    def remove(self, number: int) -> None:
        """Remove the port, and what leads to it."""
        with self._lock:
            home = self._homes.get(number)
            if home is None:
                raise ConfigError(f"no port {number}", field="number", value=number)
            for i, worker in enumerate(self.workers):
                if i != home:
                    worker.remove(number)
            self.workers[home].remove(number)
            del self._homes[number]

    def home(self, number: int) -> Worker:
        """The worker that the port is in."""
        return self.workers[self._homes[number]]

    def _free_number(self) -> int:
        most = ALL_PORTS - len(self.workers)
        for number in range(most):
            if number not in self._homes:
                return number
        raise LimitReached(f"a group has at most {most} ports", limit="ports", value=most)
