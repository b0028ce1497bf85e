"""The processes that guests' ports go with: a port is detached when its holder ends, however that ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from arcbox_net.errors import ConfigError


class Holders:
    """Which process holds which port. `ended` is called with the port's name, once."""

    def __init__(self, ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._fds: dict[str, int] = {}

    def hold(self, port: str, pid: int) -> None:
        """Raises ConfigError when there is no such process."""
        try:
            fd = os.pidfd_open(pid)  # sees every kind of end, and no reuse of the number
        except OSError as error:
            raise ConfigError(f"pid {pid}: {error.strerror}", field="pid", value=pid) from None
        self._fds[port] = fd
        asyncio.get_running_loop().add_reader(fd, self._on_end, port)

    def drop(self, port: str) -> None:
        """Its end means nothing any more. A port without a holder is fine."""
        fd = self._fds.pop(port, None)
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)

    def close(self) -> None:
        for port in list(self._fds):
            self.drop(port)

    def _on_end(self, port: str) -> None:
        self.drop(port)
        self._ended(port)
