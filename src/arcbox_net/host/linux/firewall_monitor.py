"""Notices within milliseconds when someone else removes or changes our tables, and says so. Changes nothing.

The kernel multicasts every ruleset transaction: its objects, then the generation number. Transactions that
name one of our tables and that the firewall did not make itself are reported, once for a burst. An audit
finds what the multicast lost (a full socket buffer).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from arcbox_net.host.linux import generation, nfnetlink
from arcbox_net.host.linux.netlink import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_NETFILTER,
    RECEIVE_BYTES,
    SOL_NETLINK,
    open_socket,
    parse,
)
from arcbox_net.host.linux.nftables import Firewall
from arcbox_net.host.plan import table_name

DEBOUNCE_S = 0.02  # long enough for `nft` of a change of ours to end, so that its number is known
AUDIT_S = 10.0
_READS_MAX = 256  # one wake-up of the event loop reads no more than this
_RECEIVE_BUFFER_BYTES = 1 << 20


class FirewallMonitor:
    """Calls *on_change* in the event loop when the tables of *firewall* are not what it put there.

    `run` calls a function in a thread that is in the tables' network namespace.
    """

    def __init__(
        self,
        firewall: Firewall,
        on_change: Callable[[], None],
        *,
        debounce_s: float = DEBOUNCE_S,
        audit_s: float = AUDIT_S,
        run: Callable[..., Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self._firewall = firewall
        self._run = run
        self._on_change = on_change
        self._debounce_s = debounce_s
        self._audit_s = audit_s
        self._table = table_name(firewall.network)
        self._socket: socket.socket | None = None
        self._touched = False
        self._missed = False
        self._suspects: list[int] = []
        self._check: asyncio.Task[None] | None = None
        self._audit: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError."""
        opened: socket.socket = await self._run(open_socket, NETLINK_NETFILTER)
        self._socket = opened
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, nfnetlink.GROUP_NFTABLES)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket.fileno(), self._readable)
        self._audit = loop.create_task(self._audit_forever())

    async def stop(self) -> None:
        """Stop listening; *on_change* is not called after this."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        for task in (self._check, self._audit):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._check = self._audit = None

    def _readable(self) -> None:
        assert self._socket is not None
        for _ in range(_READS_MAX):
            try:
                self._read(self._socket.recv(RECEIVE_BYTES))
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: the kernel dropped messages
                self._missed = True
        if (self._suspects or self._missed) and self._check is None:
            self._check = asyncio.get_running_loop().create_task(self._check_suspects())

    def _read(self, packet: bytes) -> None:
        for message in parse(packet):
            if message.kind == generation.MSG_NEWGEN:
                number = generation.parse_generation(message.payload)
                if self._touched and number is not None:
                    self._suspects.append(number)
                self._touched = False
            elif not self._touched:
                self._touched = generation.table_of(message.payload) == self._table

    async def _check_suspects(self) -> None:
        """Those that come meanwhile too: nobody else looks at them."""
        try:
            while self._suspects or self._missed:
                await asyncio.sleep(self._debounce_s)
                suspects, self._suspects = self._suspects, []
                missed, self._missed = self._missed, False
                if await self._run(self._is_changed, suspects, missed):
                    self._on_change()
        finally:
            self._check = None

    def _is_changed(self, suspects: list[int], missed: bool) -> bool:
        if not all(self._firewall.is_own_change(number) for number in suspects):
            return True
        try:
            return missed and not self._firewall.intact()
        except OSError:
            return True

    async def _audit_forever(self) -> None:
        while True:
            await asyncio.sleep(self._audit_s)
            if await self._run(self._is_changed, [], True):
                self._on_change()
