"""The front end's side of vhost-user: requests as bytes, and a port that records what a session has it do.

`FakePort` keeps the books of descriptors: each that came in is the port's, the session's, or closed, and only once.
Files of memory are the session's, and not closed while the port has them mapped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from arcbox_net.ports.vhost_user import messages, port_messages
from arcbox_net.ports.vhost_user.messages import NEED_REPLY, VERSION, Message, Reply, Request
from arcbox_net.ports.vhost_user.port_messages import NO_FD, PortMessage
from arcbox_net.ports.vhost_user.session import Session
from arcbox_net.ports.vhost_user.steps import Command

SLOT_BYTES = 0x10000
PAYLOADS = {
    PortMessage.FEATURES: port_messages.FEATURES,
    PortMessage.MEMORY_STAGE: port_messages.REGION,
    PortMessage.MEMORY_ADD: port_messages.REGION,
    PortMessage.MEMORY_REMOVE: port_messages.REGION_NAME,
    PortMessage.RING_START: port_messages.RING_START,
    PortMessage.RING_CALL: port_messages.RING_FD,
    PortMessage.RING_KICK: port_messages.RING_FD,
    PortMessage.RING_ENABLE: port_messages.RING_NUMBER,
    PortMessage.RING_STOP: port_messages.RING_NUMBER,
}
FDS_AT_END = {
    PortMessage.RING_CALL: 1,
    PortMessage.RING_KICK: 1,
    PortMessage.RING_START: 2,
}

Done = tuple[PortMessage, tuple[int, ...]]


def u64(number: int) -> bytes:
    return messages.U64.pack(number)


def state(index: int, number: int) -> bytes:
    return messages.RING_STATE.pack(index, number)


def addresses(index: int, base: int = 0, flags: int = 0) -> bytes:
    """A ring whose parts lie behind each other at *base*."""
    return messages.RING_ADDRESSES.pack(index, flags, base, base + 0x2000, base + 0x1000, 0)


def region(number: int, *, offset: int = 0, size: int = SLOT_BYTES) -> tuple[int, int, int, int]:
    """The region of a slot: no two of them overlap."""
    return number * SLOT_BYTES, size, (number + 100) * SLOT_BYTES, offset


def table(*regions: tuple[int, int, int, int], count: int | None = None) -> bytes:
    head = messages.TABLE.pack(len(regions) if count is None else count, 0)
    return head + b"".join(messages.REGION.pack(*one) for one in regions)


def one_region(fields: tuple[int, int, int, int]) -> bytes:
    return messages.ONE_REGION.pack(0, *fields)


def inflight(queues: int, size: int, total: int = 1 << 20) -> bytes:
    return messages.INFLIGHT.pack(total, 0, queues, size)


def packed(request: int, payload: bytes = b"", flags: int = VERSION, size: int | None = None) -> bytes:
    """A whole message; *size* is what its header says."""
    return messages.HEADER.pack(request, flags, len(payload) if size is None else size) + payload


def number_in(answer: Reply | bytes | None) -> int:
    """The number that a reply carries, after a look at its header."""
    assert answer is not None
    body = answer.body if isinstance(answer, Reply) else answer
    _, flags, size, number = struct.unpack("=IIIQ", body)
    assert (flags, size) == (VERSION | messages.REPLY, 8)
    return int(number)


@dataclass
class FakePort:
    """Answers 0, or what `answers` has for a kind of message: a negative errno is a refusal."""

    answers: dict[PortMessage, int] = field(default_factory=dict)
    done: list[Done] = field(default_factory=list)
    owned: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)

    def act(self, command: Command) -> int:
        form = PAYLOADS.get(command.kind)
        fields = form.unpack(command.payload) if form else ()
        assert form or not command.payload
        answer = self.answers.get(command.kind, 0)
        if answer >= 0:
            fds = [fd for fd in fields[len(fields) - FDS_AT_END.get(command.kind, 0) :] if fd != NO_FD]
            assert not set(fds) & {*self.closed, *self.owned}, "a descriptor has one owner"
            self.owned += fds
        self.done.append((command.kind, fields))
        return answer

    def close(self, fd: int) -> None:
        assert fd not in self.closed and fd not in self.owned, "a descriptor has one owner"
        self.closed.append(fd)

    def kinds(self) -> list[PortMessage]:
        return [kind for kind, _ in self.done]


class Conversation:
    """A session between a test, which sends requests, and a FakePort."""

    def __init__(self, pairs: int = 2) -> None:
        self.port = FakePort()
        self.made: list[int] = []  # sizes of memory
        self.issued: list[int] = []
        self.other_files: set[int] = set()  # of the descriptors, those that are no eventfds
        self.session = Session(
            pairs=pairs,
            close=self.port.close,
            create_memory=self._create_memory,
            is_eventfd=lambda fd: fd not in self.other_files,
        )

    def fds(self, count: int) -> list[int]:
        """Descriptors that were never seen."""
        new = [1000 + len(self.issued) + n for n in range(count)]
        self.issued += new
        return new

    def request(
        self, request: int, payload: bytes = b"", *, fds: int | Iterable[int] = 0, need_reply: bool = False
    ) -> Reply | None:
        flags = VERSION | NEED_REPLY * need_reply
        given = self.fds(fds) if isinstance(fds, int) else list(fds)
        return self.handle(Message(request, flags, payload, given))

    def handle(self, message: Message) -> Reply | None:
        steps = self.session.handle(message)
        try:
            command = next(steps)
            while True:
                command = steps.send(self.port.act(command))
        except StopIteration as done:
            answer: Reply | None = done.value
            return answer

    def refused(self, request: int, payload: bytes = b"", *, fds: int = 0) -> bool:
        """Whether the request is answered by an error; it is told so, as a reply was asked for."""
        return number_in(self.request(request, payload, fds=fds, need_reply=True)) != 0

    def start_ring(self, index: int = 0, base: int = 0) -> None:
        self.request(Request.SET_VRING_NUM, state(index, 256))
        self.request(Request.SET_VRING_BASE, state(index, base))
        self.request(Request.SET_VRING_ADDR, addresses(index))
        self.request(Request.SET_VRING_CALL, u64(index), fds=1)
        self.request(Request.SET_VRING_KICK, u64(index), fds=1)

    def close(self) -> None:
        """The books are balanced: the port's descriptors are the port's, all others are closed."""
        self.session.close()
        assert sorted(self.port.owned + self.port.closed) == sorted(self.issued)

    def _create_memory(self, size: int) -> int:
        self.made.append(size)
        return 9
