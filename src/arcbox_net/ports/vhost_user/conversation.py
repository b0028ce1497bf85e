"""A session on its socket: reads messages with their descriptors, has the port act, and replies.

Never waits: a front end that does not read its replies is disconnected, and one that sends a byte at a time costs
a read for each.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Callable

from arcbox_net.ports.vhost_user.messages import Message, MessageReader, ProtocolError, Reply
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from arcbox_net.ports.vhost_user.session import Session
from arcbox_net.ports.vhost_user.strangers import Strangers, link_of, pass_nothing_over

_FDS_SENT_MAX = 253  # SCM_MAX_FD: what there is no room for, the kernel would close here and now
_FDS_SPACE = socket.CMSG_SPACE(_FDS_SENT_MAX * array.array("i").itemsize)

Send = Callable[[int, bytes], int]


class Conversation:
    """Owns every descriptor that came over *connection*, until the port has it.

    *send* has the port act: its answer, or OSError. *strangers* closes what came, and is the port's.
    """

    def __init__(self, connection: socket.socket, send: Send, *, pairs: int, strangers: Strangers) -> None:
        pass_nothing_over(connection)
        self.connection = connection
        self._send = send
        self._reader = MessageReader()
        self._strangers = strangers
        self._session = Session(
            pairs=pairs, close=strangers.close, create_memory=_create_memory, is_eventfd=_is_eventfd
        )

    @property
    def refusal(self) -> str | None:
        """The session's."""
        return self._session.refusal

    def receive(self) -> None:
        """Read until a message was answered, or nothing more is there.

        Raises ProtocolError, or OSError when the front end is gone or does not read.
        """
        try:
            while (message := self._read()) is None:
                pass
        except BlockingIOError:
            return
        answer = self._decide(message)
        if answer is not None:
            self._reply(answer)

    def close(self) -> None:
        """The port gives up what it has of this front end. The connection is left to whoever opened it."""
        with contextlib.suppress(OSError):  # a port that is dead has nothing left
            self._send(PortMessage.RESET, b"")
        self._session.close()
        for fd in self._reader.fds:
            self._strangers.close(fd)
        self._reader.fds.clear()

    def _read(self) -> Message | None:
        if self._strangers.are_many:
            raise ProtocolError("files that it sent cannot be closed: whoever serves them does not answer")
        flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
        piece, ancillary, got, _ = self.connection.recvmsg(self._reader.wanted, _FDS_SPACE, flags)
        fds = [fd for level, kind, body in ancillary for fd in _descriptors(level, kind, body)]
        self._reader.fds += fds
        if got & socket.MSG_CTRUNC:
            raise ProtocolError("descriptors with one message for which there is no room")
        if not piece:
            raise ConnectionResetError("it hung up")
        return self._reader.receive(piece)

    def _decide(self, message: Message) -> Reply | None:
        steps = self._session.handle(message)
        try:
            command = next(steps)
            while True:
                command = steps.send(self._answer_of(command.kind, command.payload))
        except StopIteration as done:
            answer: Reply | None = done.value
            return answer

    def _answer_of(self, kind: int, payload: bytes) -> int:
        try:
            return self._send(kind, payload)
        except OSError as error:
            return -(error.errno or 1)

    def _reply(self, answer: Reply) -> None:
        fds = [] if answer.fd is None else [answer.fd]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.connection.sendmsg([answer.body], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        finally:
            for fd in fds:
                os.close(fd)


def _descriptors(level: int, kind: int, body: bytes) -> list[int]:
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return []
    fds = array.array("i")
    fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    return fds.tolist()


def _is_eventfd(fd: int) -> bool:
    """Others may keep the worker waiting when it asks what they have for it: a file of FUSE asks its owner."""
    return link_of(fd) == "anon_inode:[eventfd]"


def _create_memory(size: int) -> int:
    fd = os.memfd_create("inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    return fd
