"""What the event loop does when a callback gets no memory: it waits a little before it goes on.

A descriptor that was not read is ready still, so its callback would be called again at once: a core that is busy
with failing, and a log that fills the disk. Memory comes back when others give it back; guests' packets in the kernel
and the relay's threads go on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

PAUSE_S = 0.1
LOG_EVERY_S = 10.0
log = logging.getLogger("arcbox_net")


class MemoryBrake:
    """The loop's exception handler. Whatever is not MemoryError goes the usual way."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._silent_until = 0.0
        self._count = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), MemoryError):
            loop.default_exception_handler(context)
            return
        self._count += 1
        now = self._clock()
        if now >= self._silent_until:
            self._silent_until = now + LOG_EVERY_S
            log.error("no memory: %s (%d times)", context.get("message"), self._count)
        self._sleep(PAUSE_S)
