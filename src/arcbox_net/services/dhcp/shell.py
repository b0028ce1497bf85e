"""The DHCP server on a link: datagrams in, decisions by `server`, durability by `commit`, replies out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from arcbox_net.errors import StateError
from arcbox_net.services.dhcp.clock import system_clock
from arcbox_net.services.dhcp.commit import LeaseWriter, Store
from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.link import DhcpLink
from arcbox_net.services.dhcp.messages import DropReason
from arcbox_net.services.dhcp.records import Clock, Lease, LeaseChange
from arcbox_net.services.dhcp.replies import Reply
from arcbox_net.services.dhcp.server import Decision, DhcpServer
from arcbox_net.services.dhcp.settings import DhcpSettings
from arcbox_net.services.udp_frames import Datagram

__all__ = ["DhcpService", "system_clock"]

BACKLOG_MAX = 4096
EXPIRE_EVERY_S = 1.0
PROBES_MAX = 16
# busybox udhcpc renews from a socket that it closes right after sending: a faster answer would go there and be lost.
ANSWER_AFTER_S = 0.002

LeaseListener = Callable[[Lease, bool], None]


class DhcpService:
    """Owns its *link* and timers. `port_of` names the guest port of a source MAC, None when it is unknown.

    `on_lease(lease, active)` follows named bindings as they become durable and as they end. `writer` is the
    table's; it is shared with whoever else allocates from the table, and made here when there is none.
    """

    def __init__(
        self,
        settings: DhcpSettings,
        table: LeaseTable,
        state: Store,
        link: DhcpLink,
        *,
        port_of: Callable[[bytes], str | None],
        on_lease: LeaseListener,
        writer: LeaseWriter | None = None,
        clock: Callable[[], Clock] = system_clock,
    ) -> None:
        self._table = table
        self._link = link
        self._port_of = port_of
        self._on_lease = on_lease
        self._clock = clock
        self._server = DhcpServer(settings, table)
        self._writer = writer if writer is not None else LeaseWriter(table, state, clock=clock)
        self._writer.on_durable = self._changed
        self._expiry: asyncio.TimerHandle | None = None
        self._probes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer from now on. Raises ServiceError."""
        await self._link.open(self._answer)
        self._expiry = asyncio.get_running_loop().call_later(EXPIRE_EVERY_S, self._expire)

    async def stop(self) -> None:
        """Answer nothing new, and return when all that was granted is durable and told. Safe to call twice."""
        for task in self._probes:
            task.cancel()
        self._link.pause()
        await self._writer.close()
        self._close()

    async def rebind(self) -> None:
        """Open the link again, after what it is on was made anew."""
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

    def _answer(self, datagram: Datagram | None) -> None:
        if datagram is None:
            self._server.dropped(DropReason.DATAGRAM)
            return
        if self._writer.backlog >= BACKLOG_MAX:
            self._server.dropped(DropReason.BUSY)
            return
        src_mac = datagram.src_mac
        decision = self._server.handle(datagram.payload, src_mac, self._port_of(src_mac), self._clock())
        if decision.changes:
            self._writer.submit(decision.changes, lambda error: self._durable(decision, error))
        elif decision.probe:
            self._probe(decision)
        elif decision.reply is not None and decision.reply.ip == datagram.src_ip:
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
        try:
            self._link.send(reply)
        except OSError:
            # It is full or down. The client asks again.
            self._server.dropped(DropReason.SEND)
            return
        self._server.answered(reply)

    def _close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._link.close()

    def _expire(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(EXPIRE_EVERY_S, self._expire)
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
            claimed = await self._link.claimed_by(decision.probe)
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
