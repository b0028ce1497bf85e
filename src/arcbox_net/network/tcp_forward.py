"""TCP connections to ports of the host, passed on to a guest on the event loop: for hosts without splice(2).

A flow has two ends. What one receives the other sends before more is received, so each holds CHUNK_BYTES at most. The
end of a stream is passed on when all before it was sent, and the other way goes on. A reset is passed on at once.
Whatever else closes a socket before both streams have ended resets it, so that it does not look as if all had arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from typing import Any

from arcbox_net.network.listening import Listening
from arcbox_net.recipes.host_ports import LISTEN_BACKLOG, listen
from arcbox_net.rules import ForwardRule

FLOWS_MAX = 256
CHUNK_BYTES = 64 * 1024
DIAL_S = 10.0
IDLE_S = 7440.0  # RFC 5382: at least 2 hours and 4 minutes
_RESET, _FINISH = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # what closing a socket does
log = logging.getLogger("arcbox_net.forwards")


class TcpForward(Listening["_Flow", "_Flow"]):
    """What was accepted while nobody is there, or while FLOWS_MAX flows live, is reset."""

    def __init__(
        self,
        rule: ForwardRule,
        *,
        flows_max: int = FLOWS_MAX,
        idle_s: float = IDLE_S,
        dial_s: float = DIAL_S,
    ) -> None:
        super().__init__(rule, flows_max, idle_s)
        self.dial_s = dial_s
        self.chunk = memoryview(bytearray(CHUNK_BYTES))
        self._servers: list[asyncio.Server] = []

    async def aim(self, guest: str | None) -> None:
        """Flows that are there stay. Raises HostPortInUse, and listens to the others the next time."""
        self.guest = guest
        if guest is None:
            return
        loop = asyncio.get_running_loop()
        for held, guest_port in self._held_for()[len(self._servers) :]:
            listen(held)
            self._servers.append(
                await loop.create_server(
                    lambda port=guest_port: _Flow(self, port).client,  # type: ignore[misc]
                    sock=held,
                    backlog=LISTEN_BACKLOG,
                )
            )

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        await super().close()


class _Flow:
    """A client's connection and the one to the guest, which is dialled before anything of the client is read."""

    def __init__(self, forward: TcpForward, guest_port: int) -> None:
        self.forward = forward
        self.client = _End(self, "bytes_in")
        self.guest = _End(self, "bytes_out")
        self.client.other, self.guest.other = self.guest, self.client
        self._guest_port = guest_port
        self._dialling: asyncio.Task[None] | None = None

    def start(self) -> None:
        forward = self.forward
        if forward.guest is None or forward.flows.is_full:
            forward.counts["connect_failed" if forward.guest is None else "refused_limit"] += 1
            self.client.transport.abort()
            return
        forward.admit(self, self)
        self.client.transport.pause_reading()
        self._dialling = asyncio.get_running_loop().create_task(self._dial(forward.guest))

    async def _dial(self, guest: str) -> None:
        try:
            async with asyncio.timeout(self.forward.dial_s):
                await self._connect(guest)
        except OSError as error:
            log.debug("%s: %s", self.forward.rule, error)
            self.forward.counts["connect_failed"] += 1
            self.end()
        else:
            self.client.transport.resume_reading()

    async def _connect(self, guest: str) -> None:
        loop = asyncio.get_running_loop()
        dialled = socket.socket(socket.AF_INET6 if ":" in guest else socket.AF_INET, socket.SOCK_STREAM)
        try:
            dialled.setblocking(False)
            dialled.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            await loop.sock_connect(dialled, (guest, self._guest_port))
            await loop.create_connection(lambda: self.guest, sock=dialled)
        except BaseException:
            dialled.close()
            raise

    def end(self) -> None:
        self.forward.flows.remove(self)
        if self._dialling is not None:
            self._dialling.cancel()
        for end in (self.client, self.guest):
            if end.transport is not None:
                end.transport.abort()

    def close(self) -> None:
        """Both streams have ended, and were sent: an end that still has something keeps the other from being read."""
        self.forward.flows.remove(self)
        self.client.close()
        self.guest.close()


class _End(asyncio.BufferedProtocol):
    """One connection of a flow. *received*: what its bytes are counted as."""

    other: _End
    transport: Any = None  # an asyncio.Transport, of the guest's end from when it is dialled

    def __init__(self, flow: _Flow, received: str) -> None:
        self._flow = flow
        self._received = received
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transport.set_write_buffer_limits(high=0)
        self._when_closed(_RESET)
        if self is self._flow.client:
            self._flow.start()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._flow.forward.chunk  # read and handed on in one turn, so one is enough for all flows

    def buffer_updated(self, nbytes: int) -> None:
        forward = self._flow.forward
        forward.counts[self._received] += nbytes
        forward.touch(self._flow)
        self.other.transport.write(bytes(forward.chunk[:nbytes]))

    def eof_received(self) -> bool:
        self._has_ended = True
        if self.other._has_ended:
            self._flow.close()
        else:
            self.other.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._flow.end()

    def close(self) -> None:
        self._when_closed(_FINISH)
        self.transport.close()

    def _when_closed(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # of macOS, for one that is reset already
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, what)
