"""TCP connections to ports of the host, passed on to a guest on the event loop: for hosts without splice(2).

A flow has two ends. What one receives the other sends before more is received, so each holds CHUNK_BYTES at most. The
end of a stream is passed on when all before it was sent, and the other way goes on. A reset is passed on at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct

from arcbox_net.network.listening import Listening
from arcbox_net.recipes.host_ports import LISTEN_BACKLOG, listen
from arcbox_net.rules import ForwardRule

FLOWS_MAX = 256
CHUNK_BYTES = 64 * 1024
DIAL_S = 10.0
IDLE_S = 7440.0  # RFC 5382: at least 2 hours and 4 minutes
_RESET = struct.pack("ii", 1, 0)  # what is not sent yet is given up
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
            self.client.reset()
            return
        forward.admit(self, self)
        self.client.hold()
        self._dialling = asyncio.get_running_loop().create_task(self._dial(forward.guest))

    async def _dial(self, guest: str) -> None:
        try:
            async with asyncio.timeout(self.forward.dial_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: self.guest, guest, self._guest_port
                )
        except OSError as error:
            log.debug("%s: %s", self.forward.rule, error)
            self.forward.counts["connect_failed"] += 1
            self.end()
        else:
            self.client.go_on()

    def end(self) -> None:
        self.forward.flows.remove(self)
        if self._dialling is not None:
            self._dialling.cancel()
        self.client.reset()
        self.guest.reset()

    def end_when_sent(self) -> None:
        """Both streams have ended."""
        self.client.close()
        self.guest.close()

    def end_lost(self, error: Exception | None) -> None:
        """One connection is no more."""
        if error is not None:
            self.end()
        elif not self.client.is_open and not self.guest.is_open:
            self.forward.flows.remove(self)


class _End(asyncio.BufferedProtocol):
    """One connection of a flow. *received*: what its bytes are counted as."""

    other: _End

    def __init__(self, flow: _Flow, received: str) -> None:
        self._flow = flow
        self._received = received
        self._transport: asyncio.Transport | None = None
        self._has_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        if self is self._flow.client:
            self._flow.start()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._flow.forward.chunk  # read and handed on in one turn, so one is enough for all flows

    def buffer_updated(self, nbytes: int) -> None:
        forward = self._flow.forward
        forward.counts[self._received] += nbytes
        forward.touch(self._flow)
        self.other.send(bytes(forward.chunk[:nbytes]))

    def eof_received(self) -> bool:
        self._has_ended = True
        if self.other._has_ended:
            self._flow.end_when_sent()
        else:
            self.other.finish()
        return True

    def pause_writing(self) -> None:
        self.other.hold()

    def resume_writing(self) -> None:
        self.other.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._flow.end_lost(exc)

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, chunk: bytes) -> None:
        if self._transport is not None:
            self._transport.write(chunk)

    def finish(self) -> None:
        if self._transport is not None:
            self._transport.write_eof()

    def hold(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        if self._transport is not None:
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()
