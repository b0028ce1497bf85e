"""The DHCP server on an interface: frames in, decisions by `server`, durability by `commit`, frames out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence

from arcbox_net.errors import StateError
from arcbox_net.services.dhcp.clock import system_clock
from arcbox_net.services.dhcp.commit import LeaseWriter, Store
from arcbox_net.services.dhcp.frames import FRAME_BYTES_MAX, arp_probe, arp_sender, unwrap, wrap
from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.messages import DropReason
from arcbox_net.services.dhcp.records import Clock, Lease, LeaseChange
from arcbox_net.services.dhcp.replies import Reply
from arcbox_net.services.dhcp.server import Decision, DhcpServer
from arcbox_net.services.dhcp.settings import DhcpSettings
from arcbox_net.services.dhcp.sockets import hold_server_port, open_arp, open_frames
from arcbox_net.services.placing import Placing, here

__all__ = ["DhcpService", "system_clock"]

DRAIN_MAX = 64  # frames read before the loop serves others
BACKLOG_MAX = 4096
EXPIRE_EVERY_S = 1.0
PROBE_S = 0.2  # RFC 2131 wants a probe of a reused address; the client waits seconds for its offer
PROBES_MAX = 16
# busybox udhcpc renews from a socket that it closes right after sending: a faster answer would go there and be lost.
ANSWER_AFTER_S = 0.002

log = logging.getLogger(__name__)
LeaseListener = Callable[[Lease, bool], None]


class DhcpService:
    """Owns the sockets and timers. `port_of` names the guest port of a source MAC, None when it is unknown.

    `on_lease(lease, active)` follows named bindings as they become durable and as they end. `writer` is the
    table's; it is shared with whoever else allocates from the table, and made here when there is none. `place`
    makes the sockets where the interface is.
    """

    def __init__(
        self,
        settings: DhcpSettings,
        table: LeaseTable,
        state: Store,
        *,
        ifname: str,
        port_of: Callable[[bytes], str | None],
        on_lease: LeaseListener,
        writer: LeaseWriter | None = None,
        clock: Callable[[], Clock] = system_clock,
        place: Placing = here,
    ) -> None:
        self._table = table
        self._place = place
        self._ifname = ifname
        self._port_of = port_of
        self._on_lease = on_lease
        self._clock = clock
        self._server = DhcpServer(settings, table)
        self._server_ip = int(settings.gateway)
        self._writer = writer if writer is not None else LeaseWriter(table, state, clock=clock)
        self._writer.on_durable = self._changed
        self._frames: socket.socket | None = None
        self._held: socket.socket | None = None
        self._mac = b""
        self._expiry: asyncio.TimerHandle | None = None
        self._probes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer from now on. Raises ServiceError: port 67 is taken, no permission, no such interface."""
        self._held = await self._place(lambda: hold_server_port(self._ifname))
        try:
            self._frames = await self._place(lambda: open_frames(self._ifname))
        except BaseException:
            self._held.close()
            raise
        self._mac = self._frames.getsockname()[4]
        loop = asyncio.get_running_loop()
        loop.add_reader(self._frames.fileno(), self._drain)
        self._expiry = loop.call_later(EXPIRE_EVERY_S, self._expire)

    async def stop(self) -> None:
        """Answer nothing new, and return when all that was granted is durable and told. Safe to call twice."""
        for task in self._probes:
            task.cancel()
        if self._frames is not None:
            asyncio.get_running_loop().remove_reader(self._frames.fileno())
        await self._writer.close()
        self._close()

    async def rebind(self) -> None:
        """Open the sockets again, after the interface was replaced by another of that name."""
        self._close()
        await self.start()

    async def commit(self, changes: Sequence[LeaseChange]) -> None:
        """Make changes of the table durable, together with those of clients. Raises StateError."""
        await self._writer.commit(changes)

    def stats(self) -> dict[str, int]:
        return self._server.stats() | {
            "commit_groups": self._writer.groups,
            "commit_changes": self._writer.changes,
            "commit_failures": self._writer.failures,
        }

    def _drain(self) -> None:
        """Answer what has arrived, up to a budget: the loop calls again while more is there."""
        sock = self._frames
        if sock is None:
            return
        now = self._clock()
        for _ in range(DRAIN_MAX):
            try:
                frame = sock.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:  # ENETDOWN, once, when the interface goes down
                log.warning("dhcp on %s: %s", self._ifname, error.strerror)
                return
            self._answer(frame, now)

    def _answer(self, frame: bytes, now: Clock) -> None:
        datagram = unwrap(frame)
        if datagram is None:
            self._server.dropped(DropReason.DATAGRAM)
            return
        if self._writer.backlog >= BACKLOG_MAX:
            self._server.dropped(DropReason.BUSY)
            return
        source_mac = datagram.source_mac
        decision = self._server.handle(datagram.payload, source_mac, self._port_of(source_mac), now)
        if decision.changes:
            self._writer.submit(decision.changes, lambda error: self._durable(decision, error))
        elif decision.probe:
            self._probe(decision)
        elif decision.reply is not None and decision.reply.ip == datagram.source_ip:
            asyncio.get_running_loop().call_later(ANSWER_AFTER_S, self._send, decision.reply)
        elif decision.reply is not None:
            self._send(decision.reply)

    def _durable(self, decision: Decision, error: Exception | None) -> None:
        if error is not None:
            reply = self._server.not_durable(decision, self._clock())
            if reply is not None:
                self._send(reply)
            return
        if decision.reply is not None:
            self._send(decision.reply)

    def _changed(self, change: LeaseChange) -> None:
        for ended in change.ended:
            self._tell(ended, False)
        if change.lease is not None and change.started:
            self._tell(change.lease, True)

    def _tell(self, lease: Lease, active: bool) -> None:
        if lease.hostname is not None:
            self._on_lease(lease, active)

    def _send(self, reply: Reply) -> None:
        if self._frames is None:
            return
        frame = wrap(
            reply.payload,
            src_mac=self._mac,
            dst_mac=reply.mac,
            src_ip=self._server_ip,
            dst_ip=reply.ip,
            dst_port=reply.dst_port,
        )
        try:
            self._frames.send(frame)
        except OSError:
            # The queue is full or the link is down. The client asks again.
            self._server.dropped(DropReason.SEND)
            return
        self._server.answered(reply)

    def _close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        if self._frames is not None:
            asyncio.get_running_loop().remove_reader(self._frames.fileno())
        for sock in (self._frames, self._held):
            if sock is not None:
                sock.close()
        self._frames = self._held = None

    def _expire(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(EXPIRE_EVERY_S, self._expire)
        if self._frames is not None:
            # A bridge without a fixed address takes that of a port.
            self._mac = self._frames.getsockname()[4]
        for lease in self._table.expire(self._clock()):
            self._tell(lease, False)

    def _probe(self, decision: Decision) -> None:
        """Offer an address that was another client's only if nobody answers on it."""
        if len(self._probes) >= PROBES_MAX:
            self._server.dropped(DropReason.BUSY)
            return
        task = asyncio.get_running_loop().create_task(self._offer_if_silent(decision))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _offer_if_silent(self, decision: Decision) -> None:
        client = decision.client
        if client is None or decision.reply is None:
            return
        try:
            claimed = await self._claimed_by(decision.probe)
        except OSError:
            self._server.dropped(DropReason.SEND)
            return
        if claimed is None or claimed == client.mac:
            self._send(decision.reply)
            return
        self._server.dropped(DropReason.CONFLICT)
        changes = self._server.conflict(decision, self._clock())
        with contextlib.suppress(StateError):  # offered again, it is probed again
            await self._writer.commit(changes)

    async def _claimed_by(self, ip: int) -> bytes | None:
        """The MAC that answers on *ip* within PROBE_S."""
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
