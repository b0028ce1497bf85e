"""Arbitrary messages to a vhost-user session: it refuses or obeys, and every descriptor has one owner.

An input is a number of steps: a byte that says how a message is made (`STEPS`), and what that step reads.
"""

from __future__ import annotations

from arcbox_net.ports.vhost_user.memory import REGIONS_MAX
from arcbox_net.ports.vhost_user.messages import (
    FDS_MAX,
    HEADER,
    PAYLOAD_SIZES,
    VERSION,
    Message,
    MessageReader,
    ProtocolError,
    Request,
)
from arcbox_net.ports.vhost_user.port_messages import PortMessage
from tests.fuzz.reader import Input, steps
from tests.support.vhost_user import Conversation, one_region, region, table

STEPS_MAX = 64
ERRNO_MAX = 34
REQUESTS = tuple(Request)


def converse(body: bytes) -> None:
    read = Input(body)
    talk = Conversation()
    for step in steps(read, STEPS_MAX):
        try:
            STEPS[step % len(STEPS)](read, talk)
        except ProtocolError:
            talk.close()
            talk = Conversation()
        assert len(talk.session.memory.regions) <= REGIONS_MAX
        assert len(talk.port.owned) + len(talk.port.closed) <= len(talk.issued)
    talk.close()


def _any_bytes(read: Input, talk: Conversation) -> None:
    """A stream that may end inside a message, with descriptors anywhere."""
    reader = MessageReader()
    try:
        for _ in range(read.number() % 32):
            wanted = reader.wanted
            assert wanted > 0
            reader.fds += talk.fds(read.number() % 3)
            message = reader.receive(read.take(wanted).ljust(wanted, b"\0"))
            if message is not None:
                talk.handle(message)
    finally:
        for fd in reader.fds:
            talk.port.close(fd)


def _any_payload(read: Input, talk: Conversation) -> None:
    request = REQUESTS[read.number() % len(REQUESTS)]
    sizes = PAYLOAD_SIZES[request]
    size = sizes[read.number() % len(sizes)]
    _send(read, talk, request, read.take(size).ljust(size, b"\0"))


def _ring(read: Input, talk: Conversation) -> None:
    """Requests about rings that are there, mostly, with small numbers."""
    request = (
        Request.SET_VRING_NUM,
        Request.SET_VRING_BASE,
        Request.SET_VRING_ENABLE,
        Request.GET_VRING_BASE,
    )
    index, number = read.number() % 5, read.number()
    _send(read, talk, request[number % 4], HEADER.pack(index, number // 4, 0)[:8])


def _descriptor(read: Input, talk: Conversation) -> None:
    request = (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)[read.number() % 3]
    _send(read, talk, request, read.take(2).ljust(8, b"\0"))


def _memory(read: Input, talk: Conversation) -> None:
    regions = [
        region(read.number() % 40, offset=4096 * (read.number() % 2)) for _ in range(read.number() % 9)
    ]
    if len(regions) == 1:
        request = Request.ADD_MEM_REG if read.number() % 2 else Request.REM_MEM_REG
        _send(read, talk, request, one_region(regions[0]))
    elif regions:
        _send(read, talk, Request.SET_MEM_TABLE, table(*regions))


def _port_answers(read: Input, talk: Conversation) -> None:
    kinds = list(PortMessage)
    talk.port.answers[kinds[read.number() % len(kinds)]] = read.number() % (2 * ERRNO_MAX) - ERRNO_MAX


def _send(read: Input, talk: Conversation, request: int, payload: bytes) -> None:
    options = read.number()
    flags = VERSION | (options & 1) << 3
    talk.handle(Message(request, flags, payload, talk.fds(options // 2 % (FDS_MAX + 1))))


STEPS = (_any_bytes, _any_payload, _ring, _descriptor, _memory, _port_answers)
