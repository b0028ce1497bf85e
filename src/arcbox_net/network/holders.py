"""The processes that guests' ports go with: a port is detached when its holder ends, however that ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from arcbox_net.errors import ConfigError
from arcbox_net.host.platform import ProcessEnd, platform


class Holders:
    """Which process holds which port. `ended` is called with the port's name, once."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._ends: dict[str, ProcessEnd] = {}

    def hold(self, port: str, pid: int) -> None:
        """Raises ConfigError when there is no such process."""
        try:
            end = platform().watch_process(pid)
        except OSError as error:
            raise ConfigError(f"pid {pid}: {error.strerror}", field="pid", value=pid) from None
        self._ends[port] = end
        asyncio.get_running_loop().add_reader(end.fileno(), self._on_end, port)

    def drop(self, port: str) -> None:
        """Its end means nothing any more. A port without a holder is fine."""
        end = self._ends.pop(port, None)
        if end is not None:
            asyncio.get_running_loop().remove_reader(end.fileno())
            end.close()

    def close(self) -> None:
        for port in list(self._ends):
            self.drop(port)

    def _on_end(self, port: str) -> None:
        self.drop(port)
        self._ended(port)
