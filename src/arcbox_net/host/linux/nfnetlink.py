"""nfnetlink: nftables and conntrack. Requests, transactions and dumps; framing and attributes are netlink.py's.

A message has a netfilter header before its attributes: family, version, resource id in network order. Values of
attributes are in network order too.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from arcbox_net.host.linux.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    RECEIVE_BYTES,
    Message,
    attr,
    build,
    error_of,
    open_socket,
    parse,
)

SUBSYS_CONNTRACK = 1
SUBSYS_NFTABLES = 10
GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES
BATCH_BEGIN = 16
BATCH_END = 17

NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10
NFPROTO_BRIDGE = 7

ANSWER_TIMEOUT_S = 10.0
DUMP_ATTEMPTS_MAX = 10


def u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("!L", value & 0xFFFFFFFF))


class NfnetlinkSocket:
    """A request socket: one request at a time, from one thread at a time."""

    def __init__(self) -> None:
        self._socket = open_socket(NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.settimeout(ANSWER_TIMEOUT_S)
        self._sequence = 0

    def __enter__(self) -> NfnetlinkSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, family: int, body: bytes) -> None:
        """Send one request and wait for its acknowledgement. Raises OSError with the kernel's errno."""
        self._socket.send(self._message(kind, flags | NLM_F_ACK, family, body))
        self._await({self._sequence})

    def batch(self, requests: list[tuple[int, int, int, bytes]]) -> None:
        """Send (type, flags, family, body) requests as one nftables transaction. Raises its first OSError."""
        packets = [self._message(BATCH_BEGIN, 0, 0, b"", SUBSYS_NFTABLES)]
        waiting = set()
        for kind, flags, family, body in requests:
            packets.append(self._message(kind, flags | NLM_F_ACK, family, body))
            waiting.add(self._sequence)
        packets.append(self._message(BATCH_END, 0, 0, b"", SUBSYS_NFTABLES))
        self._socket.send(b"".join(packets))
        self._await(waiting)

    def get(self, kind: int, family: int, body: bytes = b"") -> bytes:
        """The payload of the single answer to one request. Raises OSError."""
        self._socket.send(self._message(kind, 0, family, body))
        return next(message.payload for message in self._answers() if message.kind != NLMSG_ERROR)

    def dump(self, kind: int, family: int, body: bytes = b"") -> list[bytes]:
        """The payloads of a dump; asked again when the kernel says it changed meanwhile. Raises OSError."""
        for _attempt in range(DUMP_ATTEMPTS_MAX):
            payloads, is_consistent = self._dump_once(kind, family, body)
            if is_consistent:
                break
        return payloads

    def _dump_once(self, kind: int, family: int, body: bytes) -> tuple[list[bytes], bool]:
        self._socket.send(self._message(kind, NLM_F_DUMP, family, body))
        payloads: list[bytes] = []
        is_consistent = True
        for message in self._answers():
            is_consistent = is_consistent and not message.flags & NLM_F_DUMP_INTR
            if message.kind == NLMSG_DONE:
                break
            if message.kind != NLMSG_ERROR:
                payloads.append(message.payload)
        return payloads, is_consistent

    def _message(self, kind: int, flags: int, family: int, body: bytes, resource: int = 0) -> bytes:
        """The next message; *kind* is the subsystem's number << 8 and the operation's."""
        self._sequence += 1
        head = struct.pack("!BBH", family, 0, resource)
        return build(kind, flags | NLM_F_REQUEST, self._sequence, head + body)

    def _await(self, waiting: set[int]) -> None:
        while waiting:
            for message in parse(self._socket.recv(RECEIVE_BYTES)):
                if message.kind == NLMSG_ERROR:
                    _check(message)
                    waiting.discard(message.sequence)

    def _answers(self) -> Iterator[Message]:
        """What answers the last message; what an earlier one left in the socket is skipped. Raises OSError."""
        while True:
            for message in parse(self._socket.recv(RECEIVE_BYTES)):
                if message.sequence == self._sequence:
                    if message.kind in (NLMSG_ERROR, NLMSG_DONE):
                        _check(message)
                    yield message


def _check(message: Message) -> None:
    """Raise the error that *message* carries; without one it is an acknowledgement, or the end."""
    code, _ = error_of(message)
    if code:
        raise OSError(code, os.strerror(code))
