"""Several workers with the same port numbers: a port is in one of them, and in the others a link leads to it.

Whoever owns one port sees a `Place`: the worker that it is in, whose port the others know as well.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from arcbox_net.dataplane.cores import cores
from arcbox_net.dataplane.link import Link, LinkDelivery, LinkEnd, LinkPort
from arcbox_net.dataplane.port import Port, PortDrop, Receiver
from arcbox_net.dataplane.worker import ALL_PORTS, PORT_MESSAGES, Worker
from arcbox_net.dataplane.worker_views import PortCounters
from arcbox_net.errors import ConfigError, LimitReached
from arcbox_net.memory.pool import PacketPool

EVERYWHERE = -1  # as a port's home: one of the number in each worker


def workers_by_cores() -> int:
    """As many as leave a core to everything else, but for one, and at most four."""
    return max(1, min(4, cores() - 1))


def _pool_for(workers: int, link_capacity: int) -> PacketPool:
    """A full link between two workers leaves the others what one alone would have."""
    links = workers * (workers - 1)
    return PacketPool(
        small=4096 * workers + links * link_capacity, large=64 * workers + links * link_capacity
    )


class WorkerGroup:
    """One worker for each of *sinks*, which gets what the worker's ports receive, and has a port for every number.

    A link holds *link_capacity* frames (a power of two); a *pool* of the group's own has room for all of theirs.
    *spin_us* None: as a worker's, but 0 if there is not a core for each and one more.
    `with WorkerGroup(sinks) as group:` starts and stops them.
    """

    def __init__(
        self,
        sinks: Sequence[Receiver],
        pool: PacketPool | None = None,
        spin_us: int | None = None,
        link_capacity: int = 512,
        name: str = "worker",
    ) -> None:
        self.pool = _pool_for(len(sinks), link_capacity) if pool is None else pool
        if spin_us is None and len(sinks) >= max(2, cores()):
            spin_us = 0
        self.workers = [Worker(self.pool, f"{name}-{i}", spin_us) for i in range(len(sinks))]
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
        """Start the workers, with a link between any two of them. If one cannot be, none is left."""
        try:
            for worker in self.workers:
                worker.start()
            for i in range(len(self.workers)):
                for j, worker in enumerate(self.workers):
                    if i != j:
                        link = self._links[i, j] = Link(self.pool, self._link_capacity)
                        # The highest numbers are the links' ends, and lead nowhere in the other workers.
                        worker.add(LinkEnd(link), LinkDelivery(), ALL_PORTS - 1 - i)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the workers, and release what was on its way."""
        for worker in self.workers:
            worker.stop()
        for link in self._links.values():
            link.drain()
        self._links.clear()
        self._homes.clear()

    def place(self, home: int | None = None) -> Place:
        """In the worker at *home*, or in the one with the fewest ports."""
        if home is None:
            ports = Counter(self._homes.values())
            home = min(range(len(self.workers)), key=ports.__getitem__)
        return Place(self, home, self._sinks[home])

    def add(self, port: Port, home: int | None = None, sink: Receiver | None = None) -> int:
        """Add *port* to the worker at *home*, or to the one with the fewest. Return its number, in all workers.

        *sink* gets what it receives, if that is not its worker's.
        """
        with self._lock:
            if home is None:
                home = self.place().home
            number = self._free_number()
            self.workers[home].add(port, sink or self._sinks[home], number)
            self._homes[number] = home
            try:
                for i, worker in enumerate(self.workers):
                    if i != home:
                        worker.add(LinkPort(self._links[i, home], port), self._sinks[i], number)
            except BaseException:
                self._remove(number)
                raise
        return number

    def add_everywhere(self, ports: Sequence[Port]) -> int:
        """Add one of *ports* to each worker, where it is the port of that number, which is returned."""
        with self._lock:
            number = self._free_number()
            self._homes[number] = EVERYWHERE
            try:
                for worker, port, sink in zip(self.workers, ports, self._sinks, strict=True):
                    worker.add(port, sink, number)
            except BaseException:
                self._remove(number)
                raise
        return number

    def remove(self, number: int) -> None:
        """Remove the port, and what leads to it."""
        with self._lock:
            if number not in self._homes:
                raise ConfigError(f"no port {number}", field="number", value=number)
            self._remove(number)

    def send(self, number: int, kind: int, payload: bytes = b"") -> int:
        """As `Worker.send`. A message to the port's receiver goes to those of all workers, which are one to whoever
        asks: to the one at the port's home last."""
        if kind < PORT_MESSAGES:
            for worker in self._others(number):
                worker.send(number, kind, payload)
        return self.home(number).send(number, kind, payload)

    def home(self, number: int) -> Worker:
        """The worker that the port is in, or the first if it is in all of them."""
        return self.workers[max(self._homes[number], 0)]

    def counters(self) -> dict[int, PortCounters]:
        """What each port has counted, by number: what its worker did, and what the others dropped on the way to it."""
        counted = [worker.counters() for worker in self.workers]
        return {
            number: _sum([rows[number] for rows in counted], home)
            for number, home in list(self._homes.items())
        }

    def _others(self, number: int) -> list[Worker]:
        home = self.home(number)
        return [worker for worker in self.workers if worker is not home]

    def _remove(self, number: int) -> None:
        """From the workers that have the number; its home is the last."""
        for worker in [*self._others(number), self.home(number)]:
            with contextlib.suppress(ConfigError):
                worker.remove(number)
        del self._homes[number]

    def _free_number(self) -> int:
        most = ALL_PORTS - len(self.workers)
        for number in range(most):
            if number not in self._homes:
                return number
        raise LimitReached(f"a group has at most {most} ports", limit="ports", value=most)


class Place:
    """A worker of a group, to those who add their ports there. `sink`: the receiver of that worker."""

    def __init__(self, group: WorkerGroup, home: int, sink: Receiver) -> None:
        self.home = home
        self.sink = sink
        self._group = group

    def add(self, port: Port, sink: Receiver) -> int:
        return self._group.add(port, self.home, sink)

    def remove(self, number: int) -> None:
        self._group.remove(number)

    def send(self, number: int, kind: int, payload: bytes = b"") -> int:
        return self._group.send(number, kind, payload)

    def paused(self) -> AbstractContextManager[None]:
        return self._group.workers[self.home].paused()


def _sum(rows: Sequence[PortCounters], home: int) -> PortCounters:
    """Of one number in all workers, by worker. Frames that links took for a port at *home* are counted there."""
    drops: Counter[PortDrop] = Counter()
    for row in rows:
        drops.update(row.drops)
    counted = rows if home == EVERYWHERE else [rows[home]]
    moved = [sum(column) for column in zip(*(row[:-1] for row in counted), strict=True)]
    return PortCounters._make([*moved, dict(drops)])
