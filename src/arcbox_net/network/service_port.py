"""The network's own port of its switch: guests' DHCP and DNS as frames, where the gateway's address is not ours.

*Theory of operation.* Two sockets of datagrams, a frame in each, are a pair: a worker has one, as it has a guest's, the
event loop the other. The switch brings here what guests ask of the network (dataplane/serving.pxd), and lets the
answers pass as the gateway's. DHCP's come from a MAC address of this port, at which probes are answered, too; DNS's
from the one that was asked. What a wake-up reads is bounded, and each length and checksum is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, NamedTuple

from arcbox_net.addresses import parse_mac
from arcbox_net.host.plan import ETHERNET_BYTES
from arcbox_net.ports.dgram import DgramPort
from arcbox_net.ports.socket_port import PEER_CONNECT
from arcbox_net.services.dhcp.frames import arp_probe, arp_sender
from arcbox_net.services.dhcp.link import DRAIN_MAX, PROBE_S, reply_frame
from arcbox_net.services.dhcp.messages import SERVER_PORT
from arcbox_net.services.udp_frames import Datagram, unwrap, wrap

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Receiver
    from arcbox_net.dataplane.port_binding import PortHolder
    from arcbox_net.services.dhcp.link import Receive
    from arcbox_net.services.dhcp.replies import Reply

DNS_PORT = 53
BUFFER_BYTES = 1 << 20  # of frames that wait for the loop


class ServicePort:
    """A `DhcpLink`, and more. *ask* is called with each question, who asked, and the guest's packed address."""

    def __init__(self, gateway: IPv4Address, mac: str, mtu: int) -> None:
        self.mac = mac
        self.ask: Callable[[bytes, Asker, bytes], None] | None = None
        self._gateway = int(gateway)
        self._frame_max = mtu + ETHERNET_BYTES
        self._receive: Receive | None = None
        self._claims: dict[int, asyncio.Future[bytes]] = {}
        self._counts: Counter[str] = Counter()
        self._socket: socket.socket | None = None

    def add_to(self, worker: PortHolder, switch: Receiver) -> int:
        """Become a port there, and read; the port's number."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                ours.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
            ours.setblocking(False)
            number = worker.add(DgramPort(frame_max=self._frame_max), switch)
            worker.send(number, PEER_CONNECT, struct.pack("i", theirs.fileno()))
            theirs.detach()  # it is the worker's
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._drain, ours)
        return number

    def leave(self) -> None:
        """Read nothing more; the port goes with its worker. Again is fine."""
        ours, self._socket = self._socket, None
        if ours is not None:
            asyncio.get_running_loop().remove_reader(ours.fileno())
            ours.close()

    def stats(self) -> dict[str, int]:
        return dict(self._counts)

    # -- DHCP's link -----------------------------------------------------------------------------------------

    async def open(self, receive: Receive) -> None:
        self._receive = receive

    def pause(self) -> None:
        self._receive = None

    def close(self) -> None:
        self._receive = None

    def send(self, reply: Reply) -> None:
        self._write(reply_frame(reply, parse_mac(self.mac), self._gateway))

    async def claimed_by(self, ip: int) -> bytes | None:
        claim = self._claims.setdefault(ip, asyncio.get_running_loop().create_future())
        try:
            self._write(arp_probe(parse_mac(self.mac), ip))
            async with asyncio.timeout(PROBE_S):
                return await asyncio.shield(claim)
        except TimeoutError:
            return None
        finally:
            self._claims.pop(ip, None)

    # -- frames ----------------------------------------------------------------------------------------------

    def answer(self, asked: Datagram, packet: bytes) -> None:
        """Send *packet* to where a question came from, from where it went to."""
        with contextlib.suppress(OSError):
            self._write(wrap(asked.answer(packet)))

    def _drain(self, ours: socket.socket) -> None:
        """Take what has arrived, up to a budget: the loop calls again while more is there."""
        for _ in range(DRAIN_MAX):
            try:
                frame = ours.recv(self._frame_max)
            except BlockingIOError:
                return
            except OSError:
                self._counts["receive_failed"] += 1
                return
            self._take(frame)

    def _take(self, frame: bytes) -> None:
        datagram = unwrap(frame, verified=True)
        if datagram is None:
            self._hear_claim(frame)
        elif datagram.dst_port == SERVER_PORT and self._receive is not None:
            self._receive(datagram)
        elif datagram.dst_port == DNS_PORT and self.ask is not None:
            guest = datagram.src_ip.to_bytes(4, "big")
            self.ask(datagram.payload, Asker(self, datagram._replace(payload=b"")), guest)
        else:
            self._counts["unserved"] += 1

    def _hear_claim(self, frame: bytes) -> None:
        sender = arp_sender(frame)
        claim = self._claims.get(sender[1]) if sender is not None else None
        if sender is None:
            self._counts["bad_frame"] += 1
        elif claim is not None and not claim.done():
            claim.set_result(sender[0])

    def _write(self, frame: bytes) -> None:
        try:
            if self._socket is None:
                raise OSError("the port is closed")
            self._socket.send(frame)
        except OSError:
            self._counts["send_failed"] += 1
            raise


class Asker(NamedTuple):
    """Who asked: *asked* without its question."""

    port: ServicePort
    asked: Datagram

    def send(self, packet: bytes) -> None:
        self.port.answer(self.asked, packet)
