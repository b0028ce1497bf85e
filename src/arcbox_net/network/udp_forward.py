"""UDP to ports of the host, passed on to a guest on the event loop: for hosts without the splice relay.

Each client of a host port is a flow, which has a socket to the guest: by that the guest's answers find their client.
Nothing is kept: a datagram that cannot be sent at once is dropped and counted.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from arcbox_net.network.listening import Listening
from arcbox_net.rules import ForwardRule

FLOWS_MAX = 256
IDLE_S = 300.0  # RFC 4787: at least 2 minutes
BURST_MAX = 64  # of one socket in one turn of the loop
DATAGRAM_BYTES_MAX = 65535
Client = tuple[int, Any]  # the guest's port, and the client's address as sockets have it


class UdpForward(Listening[Client, "_Flow"]):
    """Datagrams of a new client while nobody is there, or while FLOWS_MAX flows live, are dropped.

    Answers leave from the address that the rule names, so it is one address.
    """

    def __init__(self, rule: ForwardRule, *, flows_max: int = FLOWS_MAX, idle_s: float = IDLE_S) -> None:
        super().__init__(rule, flows_max, idle_s)
        self.datagram = memoryview(bytearray(DATAGRAM_BYTES_MAX))

    async def open(self) -> None:
        await super().open()
        loop = asyncio.get_running_loop()
        for held, guest_port in self._held_for():
            _make_room(held)
            loop.add_reader(held, self._receive, held, guest_port)

    async def aim(self, guest: str | None) -> None:
        """Flows to another guest end."""
        if guest != self.guest:
            self._end_all()
        self.guest = guest

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        for held in self._held:
            loop.remove_reader(held)
        await super().close()

    def _receive(self, held: socket.socket, guest_port: int) -> None:
        for _ in range(BURST_MAX):
            try:
                size, address = held.recvfrom_into(self.datagram)
            except OSError:
                return
            flow = self._flow_of(held, guest_port, address)
            if flow is not None and flow.send(self.datagram[:size]):
                self.counts["datagrams_in"] += 1
                self.counts["bytes_in"] += size
            else:
                self.counts["dropped"] += 1

    def _flow_of(self, held: socket.socket, guest_port: int, address: Any) -> _Flow | None:
        key = guest_port, address
        flow = self.flows.get(key)
        if flow is not None:
            self.touch(key)
            return flow
        if self.guest is None:
            return None
        if self.flows.is_full:
            self.counts["refused_limit"] += 1
            return None
        try:
            flow = _Flow(self, held, key)
        except OSError:
            self.counts["connect_failed"] += 1
            return None
        self.admit(key, flow)
        return flow


class _Flow:
    """Raises OSError: no route to the guest, or no descriptors."""

    def __init__(self, forward: UdpForward, held: socket.socket, key: Client) -> None:
        self._forward = forward
        self._held = held
        self._key = key
        guest_port, self._client = key
        assert forward.guest is not None
        family = socket.AF_INET6 if ":" in forward.guest else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            _make_room(self._socket)
            self._socket.connect((forward.guest, guest_port))
        except OSError:
            self._socket.close()
            raise
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def send(self, payload: memoryview) -> bool:
        """Whether it was sent to the guest."""
        try:
            self._socket.send(payload)
        except OSError:
            return False
        return True

    def end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        forward = self._forward
        for _ in range(BURST_MAX):
            try:
                size = self._socket.recv_into(forward.datagram)
            except OSError:  # empty; or that the guest refuses what it was sent, which clients are not told
                return
            forward.touch(self._key)
            try:
                self._held.sendto(forward.datagram[:size], self._client)
            except OSError:
                forward.counts["dropped"] += 1
            else:
                forward.counts["datagrams_out"] += 1
                forward.counts["bytes_out"] += size


def _make_room(held: socket.socket) -> None:
    """macOS sends no datagram that is larger than the buffer, which has 9 KiB unless more is asked for."""
    if held.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < DATAGRAM_BYTES_MAX:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, DATAGRAM_BYTES_MAX)
