"""A vhost-user endpoint in a worker of this process, with its loop in a thread, for drivers in other processes."""

from __future__ import annotations

import asyncio
import struct
import threading
from pathlib import Path
from types import TracebackType

from arcbox_net.dataplane._testing_flood import GO, FloodPort
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.worker import ANSWER, Worker
from arcbox_net.dataplane.worker_views import PortCounters
from arcbox_net.ports.vhost_user.server import VhostUserEndpoint


class ServedPort:
    """A port at *path* that drops what comes, or with *echo* sends it back."""

    def __init__(self, path: Path, *, echo: bool = False, connect: bool = False, pairs: int = 1) -> None:
        self._worker = Worker()
        self._patch = Patch()
        self._endpoint = VhostUserEndpoint(
            str(path),
            self._worker,
            self._patch,
            connect=connect,
            frame_max=1514,
            pairs=pairs,
            unsealed=True,  # DPDK's memory without huge pages has no seals
            on_change=lambda: None,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._echo = echo

    @property
    def is_up(self) -> bool:
        return self._endpoint.is_up

    @property
    def trouble(self) -> str | None:
        return self._endpoint.trouble

    @property
    def counters(self) -> PortCounters:
        return self._worker.counters()[self._endpoint.number]

    def flood(self, frames: int) -> None:
        """Send so many small frames to the guest, as fast as it goes."""
        source = self._worker.add(FloodPort(), self._patch)
        self._patch.lead(self._worker, source, self._endpoint.number)
        self._worker.send(source, GO, struct.pack("=Q", frames))

    def __enter__(self) -> ServedPort:
        self._worker.start()
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._worker.stop()

    async def _start(self) -> None:
        self._loop.add_reader(self._worker.event_fd, self._events)
        await self._endpoint.start()
        if self._echo:
            self._patch.lead(self._worker, self._endpoint.number, self._endpoint.number)

    async def _stop(self) -> None:
        await self._endpoint.stop()
        self._loop.remove_reader(self._worker.event_fd)

    def _events(self) -> None:
        for event in self._worker.events():
            if event.kind != ANSWER:
                self._endpoint.handle(event)
