"""Router advertisements on an interface: solicitations in, decisions by `server`, advertisements out."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable
from ipaddress import IPv6Address

from arcbox_net.services.placing import Placing, here
from arcbox_net.services.ra.server import Packet, RaServer, RaSettings
from arcbox_net.services.ra.sockets import hop_limit_of, open_icmpv6

DRAIN_MAX = 64  # packets read before the loop serves others
PACKET_BYTES_MAX = 1500
ANCILLARY_BYTES = socket.CMSG_SPACE(4)

log = logging.getLogger(__name__)


class RaService:
    """Owns the socket and the timer. `address` is the link-local address to send from. `place` makes the socket
    where the interface is.
    """

    def __init__(
        self,
        settings: RaSettings,
        *,
        ifname: str,
        address: IPv6Address,
        default_router: bool = False,
        place: Placing = here,
        rng: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ifname = ifname
        self._address = str(address)
        self._place = place
        self._clock = clock
        self._server = RaServer(settings, rng, clock(), default_router=default_router)
        self._socket: socket.socket | None = None
        self._ifindex = 0
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Advertise from now on. Raises ServiceError: no permission, no such interface or address."""
        self._socket = await self._place(lambda: open_icmpv6(self._ifname, self._address))
        self._ifindex = self._socket.getsockname()[3]
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._drain)
        self._advance()

    async def stop(self) -> None:
        """Tell guests that this is no router any more, and nothing after that. Safe to call twice."""
        if self._socket is not None:
            self._send(self._server.final())
        self._close()

    async def rebind(self) -> None:
        """Open the socket again, after the interface was replaced by another of that name."""
        self._close()
        await self.start()

    def set_default_router(self, is_one: bool) -> None:
        """Whether guests are to have a default route."""
        self._server.set_default_router(is_one, self._clock())
        self._advance()

    def link_came_up(self) -> None:
        """The interface has a carrier now."""
        self._server.link_came_up(self._clock())
        self._advance()

    def stats(self) -> dict[str, int]:
        return self._server.stats()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _drain(self) -> None:
        """Take what has arrived, up to a budget: the loop calls again while more is there."""
        now = self._clock()
        for _ in range(DRAIN_MAX):
            if self._socket is None:
                return
            try:
                packet, ancillary, _, source = self._socket.recvmsg(PACKET_BYTES_MAX, ANCILLARY_BYTES)
            except BlockingIOError:
                break
            except OSError as error:  # ENETDOWN, once, when the interface goes down
                log.warning("router advertisements on %s: %s", self._ifname, error.strerror)
                break
            self._server.handle(
                packet, IPv6Address(source[0].partition("%")[0]), hop_limit_of(ancillary), now
            )
        self._advance()

    def _advance(self) -> None:
        """Send what is due, and wake again for what is next."""
        if self._socket is None:
            return
        now = self._clock()
        for packet in self._server.due(now):
            self._send(packet)
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, self._server.alarm() - now)
        self._timer = asyncio.get_running_loop().call_later(delay, self._advance)

    def _send(self, packet: Packet) -> None:
        assert self._socket is not None
        try:
            self._socket.sendto(packet.payload, (str(packet.destination), 0, 0, self._ifindex))
        except OSError:  # no guest is attached yet, or the queue is full: it is asked for, or repeated
            self._server.unsent(packet)
            return
        self._server.sent(packet)
