"""What a DHCP server's datagrams come from and go to, and the link that is an interface of the kernel."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Protocol

from arcbox_net.services.dhcp.frames import FRAME_BYTES_MAX, arp_probe, arp_sender
from arcbox_net.services.dhcp.messages import SERVER_PORT
from arcbox_net.services.dhcp.replies import Reply
from arcbox_net.services.dhcp.sockets import hold_server_port, open_arp, open_frames
from arcbox_net.services.placing import Placing, here
from arcbox_net.services.udp_frames import Datagram, unwrap, wrap

DRAIN_MAX = 64  # frames read before the loop serves others
PROBE_S = 0.2  # RFC 2131 wants a probe of a reused address; the client waits seconds for its offer

log = logging.getLogger(__name__)
Receive = Callable[[Datagram | None], None]


class DhcpLink(Protocol):
    """Calls *receive* for each datagram to port 67 while it is open, with None for a frame that holds none."""

    async def open(self, receive: Receive) -> None:
        """Raises ServiceError."""
        ...

    def pause(self) -> None:
        """Receive nothing more, while what is sent still leaves. Again is fine, as for `close`."""
        ...

    def close(self) -> None: ...

    def send(self, reply: Reply) -> None:
        """Raises OSError when it cannot be sent now."""
        ...

    async def claimed_by(self, ip: int) -> bytes | None:
        """The MAC that answers on *ip* within PROBE_S. Raises OSError."""
        ...


def reply_frame(reply: Reply, mac: bytes, address: int) -> bytes:
    """The frame that carries *reply* from the server that has *mac* and *address*."""
    return wrap(Datagram(mac, reply.mac, address, reply.ip, SERVER_PORT, reply.dst_port, reply.payload))


class InterfaceLink:
    """The interface *ifname*, whose server is at *address*. `place` makes the sockets where the interface is."""

    def __init__(self, ifname: str, address: IPv4Address, place: Placing = here) -> None:
        self._ifname = ifname
        self._address = int(address)
        self._place = place
        self._receive: Receive = lambda _: None
        self._frames: socket.socket | None = None
        self._held: socket.socket | None = None

    async def open(self, receive: Receive) -> None:
        """Raises ServiceError: port 67 is taken, no permission, no such interface."""
        self._receive = receive
        self._held = await self._place(lambda: hold_server_port(self._ifname))
        try:
            self._frames = await self._place(lambda: open_frames(self._ifname))
        except BaseException:
            self._held.close()
            raise
        asyncio.get_running_loop().add_reader(self._frames.fileno(), self._drain, self._frames)

    def pause(self) -> None:
        if self._frames is not None:
            asyncio.get_running_loop().remove_reader(self._frames.fileno())

    def close(self) -> None:
        self.pause()
        for sock in (self._frames, self._held):
            if sock is not None:
                sock.close()
        self._frames = self._held = None

    def send(self, reply: Reply) -> None:
        if self._frames is None:
            raise OSError(f"{self._ifname} is closed")
        # Asked each time: a bridge without a fixed address takes that of a port.
        self._frames.send(reply_frame(reply, self._frames.getsockname()[4], self._address))

    async def claimed_by(self, ip: int) -> bytes | None:
        loop = asyncio.get_running_loop()
        with await self._place(lambda: open_arp(self._ifname)) as sock:
            sock.send(arp_probe(sock.getsockname()[4], ip))
            try:
                async with asyncio.timeout(PROBE_S):
                    while True:
                        sender = arp_sender(await loop.sock_recv(sock, FRAME_BYTES_MAX))
                        if sender is not None and sender[1] == ip:
                            return sender[0]
            except TimeoutError:
                return None

    def _drain(self, sock: socket.socket) -> None:
        """Hand on what has arrived, up to a budget: the loop calls again while more is there."""
        for _ in range(DRAIN_MAX):
            try:
                frame = sock.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:  # ENETDOWN, once, when the interface goes down
                log.warning("dhcp on %s: %s", self._ifname, error.strerror)
                return
            self._receive(unwrap(frame, dst_port=SERVER_PORT))
