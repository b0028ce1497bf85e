"""How a network is found: its lock and its two sockets. Made again when somebody removes their directory.

That happens to ordinary users: a session manager removes their runtime directory when they log out, and makes a new
one when they log in again. A network that nobody can reach is one that nobody can stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net import paths
from arcbox_net.errors import AlreadyRunning, ArcboxNetError
from arcbox_net.host.platform import Closeable, platform
from arcbox_net.network.fdpass import FdServer, listen
from arcbox_net.network.handover import tap_handler

if TYPE_CHECKING:
    from arcbox_net.network.api import ApiServer
    from arcbox_net.network.core import Network
    from arcbox_net.network.lock import NetworkLock

AGAIN_S = 2.0

log = logging.getLogger("arcbox_net")


class Presence:
    """The sockets of *network*. `stop` is called when another process has taken its name meanwhile."""

    def __init__(self, network: Network, lock: NetworkLock, stop: Callable[[], None]) -> None:
        self._network = network
        self._lock = lock
        self._stop = stop
        self._lost = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._watched: Closeable | None = None
        self._listener: socket.socket | None = None
        self._fds: FdServer | None = None
        self._api: ApiServer | None = None

    def listen(self) -> None:
        """Take callers on both sockets; those of api.sock wait for `start`. Raises StartFailed, OSError."""
        name = self._network.name
        self._listener = listen(paths.api_socket(name), socket.SOCK_STREAM)
        if self._network.hands_over_taps:
            self._fds = FdServer(
                listen(paths.fd_socket(name), socket.SOCK_SEQPACKET), tap_handler(self._network)
            )
            self._fds.start()

    async def start(self) -> None:
        """Answer on api.sock, and keep both sockets where callers look for them."""
        await self._answer()
        self._watch()
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        await self._close()

    async def _answer(self) -> None:
        # The HTTP stack takes 60 ms to import, which nobody who only wants a network should wait for.
        loop = asyncio.get_running_loop()
        http = await loop.run_in_executor(None, importlib.import_module, "arcbox_net.network.api")
        assert self._listener is not None
        self._api = http.ApiServer(self._listener, self._network)
        await self._api.start()

    async def _close(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None
        if self._fds is not None:
            await self._fds.stop()
        if self._api is not None:
            await self._api.stop()
        elif self._listener is not None:
            self._listener.close()
        self._fds = self._api = self._listener = None

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # gone already, or a kernel without
            self._watched = platform().watch_folder(paths.runtime_dir(self._network.name), self._lost.set)
        if not self._is_there():
            self._lost.set()

    def _is_there(self) -> bool:
        name = self._network.name
        wanted = [paths.api_socket(name), *([paths.fd_socket(name)] if self._network.hands_over_taps else [])]
        return all(path.exists() for path in wanted)

    async def _keep(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            if self._is_there():
                continue
            log.warning("%s was removed, making it again", paths.runtime_dir(self._network.name))
            await self._close()
            while not await self._is_back():
                await asyncio.sleep(AGAIN_S)

    async def _is_back(self) -> bool:
        """Whether the directory could be made again. It cannot while its user is logged out."""
        try:
            self._lock.retake()
            self.listen()
            await self._answer()
        except AlreadyRunning as error:
            log.error("%s: this one ends", error)
            self._stop()
            await asyncio.Event().wait()  # until we are cancelled
        except (ArcboxNetError, OSError) as error:
            log.debug("%s", error)
            await self._close()
            return False
        self._watch()
        log.info("network %s can be reached again", self._network.name)
        return True
