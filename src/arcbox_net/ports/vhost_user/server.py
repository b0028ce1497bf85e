"""The unix socket of a vhost-user port: one front end at a time sets the port up, and owns it while it is connected."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from arcbox_net.ports.connected_endpoint import ConnectedEndpoint
from arcbox_net.ports.vhost_user.conversation import Conversation
from arcbox_net.ports.vhost_user.messages import ProtocolError
from arcbox_net.ports.vhost_user.port import VhostUserPort
from arcbox_net.ports.vhost_user.port_messages import FAULT_BITS, RING_BROKEN
from arcbox_net.ports.vhost_user.strangers import Strangers
from arcbox_net.ports.vhost_user.vring import RingFault

if TYPE_CHECKING:
    from arcbox_net.dataplane.port import Receiver
    from arcbox_net.dataplane.port_binding import PortHolder
    from arcbox_net.dataplane.worker_views import WorkerEvent

PAIRS = 4  # of queues, that a guest may use


class VhostUserEndpoint(ConnectedEndpoint):
    """*unsealed* accepts guest memory that its owner can cut off, which would end the network process."""

    def __init__(
        self,
        path: str,
        worker: PortHolder,
        switch: Receiver,
        *,
        connect: bool = False,
        frame_max: int,
        pairs: int = PAIRS,
        unsealed: bool = False,
        owner_uid: int | None = None,
        on_change: Callable[[], None],
    ) -> None:
        port = VhostUserPort(frame_max=frame_max, pairs=pairs, unsealed=unsealed)
        super().__init__(
            path,
            worker,
            switch,
            port,
            connect=connect,
            takes_descriptors=True,
            owner_uid=owner_uid,
            on_change=on_change,
        )
        self._pairs = pairs
        self._strangers = Strangers()
        self._conversation: Conversation | None = None

    def handle(self, event: WorkerEvent) -> None:
        if event.kind == RING_BROKEN:
            ring, fault = divmod(event.value, 1 << FAULT_BITS)
            name = RingFault(fault).name.removeprefix("FAULT_").lower()
            self._peer_gone(f"the guest was disconnected: ring {ring} is broken ({name})")
        else:
            super().handle(event)

    def _hand_over(self, peer: socket.socket, pid: int | None) -> None:
        """The socket stays here: its messages are the worker's business one by one."""
        peer.setblocking(False)
        self._conversation = Conversation(peer, self._send, pairs=self._pairs, strangers=self._strangers)
        asyncio.get_running_loop().add_reader(peer, self._receive, self._conversation)
        self.is_up, self.peer_pid = True, pid
        self._say(None)

    def _receive(self, conversation: Conversation) -> None:
        try:
            conversation.receive()
        except ProtocolError as error:
            self._peer_gone(f"the front end was disconnected: {error}")
        except OSError as error:
            self._peer_gone(f"the front end is gone: {error.strerror or error}")
        else:
            if conversation.refusal is not None:
                self._say(f"the front end was refused: {conversation.refusal}")

    def _let_go(self, connection: socket.socket) -> None:
        self._strangers.close_connection(connection)

    def _check_room(self) -> None:
        if self._strangers.are_many:
            raise OSError(errno.EBUSY, "what earlier front ends sent cannot be closed")

    def _peer_gone(self, why: str) -> None:
        refusal = self._conversation.refusal if self._conversation is not None else None
        if refusal is not None:
            why = f"{why}; it had been refused: {refusal}"
        self._end_conversation()
        super()._peer_gone(why)

    def _close(self) -> None:
        self._end_conversation()
        super()._close()

    def _end_conversation(self) -> None:
        if self._conversation is not None:
            asyncio.get_running_loop().remove_reader(self._conversation.connection)
            self._conversation.close()
            self._conversation = None

    def _send(self, kind: int, payload: bytes) -> int:
        return self._worker.send(self.number, kind, payload)
