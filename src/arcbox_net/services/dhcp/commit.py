"""Group commit of lease changes: many answers wait for one write of the disk, and the event loop for none."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from arcbox_net.errors import StateError
from arcbox_net.services.dhcp.clock import system_clock
from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.records import Clock, LeaseChange

GATHER_S = 0.002  # how long the first change of a group waits for others
GROUP_MAX = 512

log = logging.getLogger(__name__)
Done = Callable[[StateError | None], None]


class Store(Protocol):
    """What makes changes durable: blocks, and raises StateError. In a network process it is its State."""

    def commit_leases(self, changes: Sequence[LeaseChange]) -> None: ...


class LeaseWriter:
    """Writes a table's changes in their order, one group at a time, and settles them in the table.

    All methods belong to the event loop's thread. There is one writer for a table. `on_durable`, if set, is told
    of every change that is on the disk.
    """

    def __init__(
        self,
        table: LeaseTable,
        store: Store,
        *,
        gather_s: float = GATHER_S,
        clock: Callable[[], Clock] = system_clock,
    ) -> None:
        self._table = table
        self._store = store
        self._gather_s = gather_s
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="leases")
        self._waiting: list[tuple[Sequence[LeaseChange], Done]] = []
        self._writing: list[tuple[Sequence[LeaseChange], Done]] = []
        self._gathering = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.on_durable: Callable[[LeaseChange], None] | None = None
        self.groups = 0
        self.changes = 0
        self.failures = 0
        self._failing = False

    @property
    def backlog(self) -> int:
        """Answers that wait for the disk."""
        return len(self._waiting) + len(self._writing)

    def submit(self, changes: Sequence[LeaseChange], done: Done) -> None:
        """Write *changes*, settle them in the table, then call *done* with None or why it failed."""
        self._waiting.append((changes, done))
        self._idle.clear()
        if not self._gathering and not self._writing:
            self._gathering = True
            asyncio.get_running_loop().call_later(self._gather_s, self._write)

    async def commit(self, changes: Sequence[LeaseChange]) -> None:
        """Return when *changes* are durable. Raises StateError, and then the table has taken them back."""
        if not changes:
            return
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: StateError | None) -> None:
            # The caller may have been cancelled; the change is settled all the same.
            if finished.done():
                return
            if error is None:
                finished.set_result(None)
            else:
                finished.set_exception(error)

        self.submit(changes, done)
        await finished

    async def close(self) -> None:
        """Write what is waiting, then end the thread."""
        await self._idle.wait()
        self._executor.shutdown(wait=False)

    def _write(self) -> None:
        self._gathering = False
        self._writing, self._waiting = self._waiting[:GROUP_MAX], self._waiting[GROUP_MAX:]
        rows = self._table.doubtful()
        for changes, _ in self._writing:
            rows += changes
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._store.commit_leases, rows)
        future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[None]) -> None:
        error = future.exception()
        refused = error if isinstance(error, StateError) or error is None else StateError(str(error))
        group, self._writing = self._writing, []
        for changes, _ in group:
            if refused is None:
                self._table.committed(changes)
                self.changes += len(changes)
            else:
                self._table.failed(changes, self._clock())
        self.groups += 1
        if refused is not None:
            self.failures += 1
        # A disk stays full for long: said once, and once more when it is over.
        if (refused is not None) != self._failing:
            self._failing = refused is not None
            log.error("leases cannot be written: %s", refused) if refused else log.warning(
                "leases are written again"
            )
        if self._waiting:
            # They gathered while the disk was busy.
            self._write()
        else:
            self._idle.set()
        for changes, done in group:
            done(refused)
            if refused is None:
                self._tell(changes)

    def _tell(self, changes: Sequence[LeaseChange]) -> None:
        if self.on_durable is None:
            return
        for change in changes:
            try:
                self.on_durable(change)
            except Exception:  # the others of the group still wait for their answer
                log.exception("after the lease of %s was written", change.ip)
