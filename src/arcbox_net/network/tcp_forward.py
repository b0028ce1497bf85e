"""TCP connections to ports of the host, passed on to a guest on the event loop: for hosts without splice(2)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from arcbox_net.recipes.host_ports import close, hold, listen
from arcbox_net.rules import ForwardRule

CONNECTIONS_MAX = 256
CHUNK_BYTES = 256 * 1024
DIAL_S = 10.0
log = logging.getLogger("arcbox_net.forwards")


class TcpForward:
    """Holds the host's ports from `open` on, listens while it is aimed at a guest."""

    def __init__(self, rule: ForwardRule) -> None:
        self._rule = rule
        self._held: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._flows: set[asyncio.Task[None]] = set()
        self._guest: str | None = None

    async def open(self) -> None:
        """Raises HostPortInUse, PermissionDenied, ConfigError."""
        self._held = hold(self._rule)

    async def aim(self, guest: str | None) -> None:
        """Lead connections to *guest* from now on; those that are there stay. None: the next one is reset.

        Raises HostPortInUse, and listens to the others the next time.
        """
        self._guest = guest
        if guest is None:
            return
        pairs = list(zip(self._held, self._rule.pairs(), strict=True))
        for held, (_, guest_port) in pairs[len(self._servers) :]:
            listen(held)
            self._servers.append(
                await asyncio.start_server(self._accepting(guest_port), sock=held, limit=CHUNK_BYTES)
            )

    async def close(self) -> None:
        """End every flow and free the host's ports."""
        for server in self._servers:
            server.close()
        for flow in list(self._flows):
            flow.cancel()
        await asyncio.gather(*self._flows, return_exceptions=True)
        self._servers.clear()
        close(self._held)
        self._held = []

    @property
    def connections(self) -> int:
        return len(self._flows)

    def _accepting(self, guest_port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self._flows) >= CONNECTIONS_MAX or self._guest is None:
                writer.transport.abort()
                return
            flow = asyncio.get_running_loop().create_task(
                self._pass_on(reader, writer, self._guest, guest_port)
            )
            self._flows.add(flow)
            flow.add_done_callback(self._flows.discard)

        return accept

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: str, guest_port: int
    ) -> None:
        ends = [writer]
        try:
            async with asyncio.timeout(DIAL_S):
                there, back = await asyncio.open_connection(guest, guest_port, limit=CHUNK_BYTES)
            ends.append(back)
            async with asyncio.TaskGroup() as both:
                both.create_task(_copy(reader, back))
                both.create_task(_copy(there, writer))
            for end in ends:
                end.close()
        except BaseException as error:  # reset, so that it does not look as if all had arrived
            for end in ends:
                end.transport.abort()
            if not isinstance(error, OSError | ExceptionGroup):
                raise
            log.debug("%s: %s", self._rule, error)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Until the source ends, which is passed on too."""
    while chunk := await source.read(CHUNK_BYTES):
        sink.write(chunk)
        await sink.drain()
    with contextlib.suppress(OSError):
        sink.write_eof()
