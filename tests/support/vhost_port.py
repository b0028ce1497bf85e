"""A vhost-user endpoint in a worker of this process, with its loop in a thread, for drivers in other processes."""

from __future__ import annotations

import asyncio
import struct
import threading
from pathlib import Path
from types import TracebackType

from arcbox_net.dataplane._testing_flood import GO, FloodPort
from arcbox_net.dataplane._testing_patch import Patch
from arcbox_net.dataplane.port import Receiver
from arcbox_net.dataplane.worker import ANSWER, Worker
from arcbox_net.dataplane.worker_views import PortCounters
from arcbox_net.ports.vhost_user.server import VhostUserEndpoint


class ServedPort:
    """A port at *path* that drops what comes, or with *echo* sends it back. A *receiver* takes the place of `patch`."""

    def __init__(
        self,
        path: Path,
        *,
        echo: bool = False,
        connect: bool = False,
        pairs: int = 1,
        receiver: Receiver | None = None,
    ) -> None:
        self.worker = Worker()
        self.patch = Patch()
        self._endpoint = VhostUserEndpoint(
            str(path),
            self.worker,
            receiver or self.patch,
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
    def number(self) -> int:
        return self._endpoint.number

    @property
    def is_up(self) -> bool:
        return self._endpoint.is_up

    @property
    def trouble(self) -> str | None:
        return self._endpoint.trouble

    @property
    def counters(self) -> PortCounters:
        return self.worker.counters()[self._endpoint.number]

    def flood(self, frames: int) -> None:
        """Send so many small frames to the guest, as fast as it goes."""
        source = self.worker.add(FloodPort(), self.patch)
        self.patch.lead(self.worker, source, self._endpoint.number)
        self.worker.send(source, GO, struct.pack("=Q", frames))

    def __enter__(self) -> ServedPort:
        self.worker.start()
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
        self.worker.stop()

    async def _start(self) -> None:
        self._loop.add_reader(self.worker.event_fd, self._events)
        await self._endpoint.start()
        if self._echo:
            self.patch.lead(self.worker, self._endpoint.number, self._endpoint.number)

    async def _stop(self) -> None:
        await self._endpoint.stop()
        self._loop.remove_reader(self.worker.event_fd)

    def _events(self) -> None:
        for event in self.worker.events():
            if event.kind != ANSWER:
                self._endpoint.handle(event)
