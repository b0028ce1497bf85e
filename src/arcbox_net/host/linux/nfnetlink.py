"""Just enough nfnetlink for conntrack.py, generation.py, guard.py and firewall_monitor.py: codec and socket.

A message is a netlink header (length, type, flags, sequence, port id), a netfilter header (family, version,
resource id in network order) and attributes (length, type, value, padded to 4). Values are in network order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

SUBSYS_CONNTRACK = 1
SUBSYS_NFTABLES = 10
GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10
NLM_F_CREATE = 0x400
NLM_F_EXCL = 0x200
NLM_F_APPEND = 0x800

NLMSG_ERROR = 2
NLMSG_DONE = 3
BATCH_BEGIN = 16
BATCH_END = 17

NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_IPV6 = 10
NFPROTO_BRIDGE = 7

RECV_BYTES_MAX = 1 << 17
NETLINK_NETFILTER = 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF  # without the flags for nested and byte order
_HEADER = struct.Struct("=LHHLL")
_ATTRIBUTE = struct.Struct("=HH")
# A header and the netfilter header in one go: what iteration needs of each message.
_MESSAGE_HEAD = 20


def attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!L", value & 0xFFFFFFFF))


def message(kind: int, flags: int, sequence: int, family: int, body: bytes, resource: int = 0) -> bytes:
    """One message; *kind* is the subsystem's number << 8 and the operation's."""
    head = _HEADER.pack(_MESSAGE_HEAD + len(body), kind, flags | NLM_F_REQUEST, sequence, 0)
    return head + struct.pack("!BBH", family, 0, resource) + body


def attributes(buffer: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute in buffer[start:end]; stops at the first that does not fit."""
    while start + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(buffer, start)
        if size < 4 or start + size > end:
            return
        yield kind & _TYPE_MASK, buffer[start + 4 : start + size]
        start += (size + 3) & ~3


def messages(buffer: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """(type, flags, sequence, sender's port id, payload after the netlink header) of each message."""
    start = 0
    while start + 16 <= len(buffer):
        size, kind, flags, sequence, port_id = _HEADER.unpack_from(buffer, start)
        if size < 16 or start + size > len(buffer):
            return
        yield kind, flags, sequence, port_id, buffer[start + 16 : start + size]
        start += (size + 3) & ~3


class NfnetlinkSocket:
    """A request socket: one request at a time, from one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER
        )
        self._socket.bind((0, 0))
        self._socket.settimeout(10)
        self._sequence = 0

    def __enter__(self) -> NfnetlinkSocket:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, family: int, body: bytes) -> None:
        """Send one request and wait for its acknowledgement. Raises OSError with the kernel's errno."""
        self._sequence += 1
        self._socket.send(message(kind, flags | NLM_F_ACK, self._sequence, family, body))
        self._await({self._sequence})

    def batch(self, requests: list[tuple[int, int, int, bytes]]) -> None:
        """Send (type, flags, family, body) requests as one nftables transaction. Raises its first OSError."""
        self._sequence += 1
        packets = [message(BATCH_BEGIN, 0, self._sequence, 0, b"", SUBSYS_NFTABLES)]
        waiting = set()
        for kind, flags, family, body in requests:
            self._sequence += 1
            waiting.add(self._sequence)
            packets.append(message(kind, flags | NLM_F_ACK, self._sequence, family, body))
        self._sequence += 1
        packets.append(message(BATCH_END, 0, self._sequence, 0, b"", SUBSYS_NFTABLES))
        self._socket.send(b"".join(packets))
        self._await(waiting)

    def get(self, kind: int, family: int, body: bytes = b"") -> bytes:
        """The payload of the single answer to one request. Raises OSError."""
        self._sequence += 1
        self._socket.send(message(kind, 0, self._sequence, family, body))
        while True:
            for answer, _flags, sequence, _port_id, payload in messages(self._receive()):
                if sequence != self._sequence:
                    continue
                if answer == NLMSG_ERROR:
                    _raise(payload)
                else:
                    return payload

    def dump(self, kind: int, family: int, body: bytes = b"") -> list[bytes]:
        """The payloads of a dump; asked again when the kernel says it changed meanwhile. Raises OSError."""
        for _attempt in range(10):
            payloads, consistent = self._dump_once(kind, family, body)
            if consistent:
                break
        return payloads

    def _dump_once(self, kind: int, family: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._socket.send(message(kind, NLM_F_DUMP, self._sequence, family, body))
        payloads: list[bytes] = []
        consistent = True
        while True:
            for answer, flags, sequence, _port_id, payload in messages(self._receive()):
                if sequence != self._sequence:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if answer == NLMSG_DONE:
                    return payloads, consistent
                if answer == NLMSG_ERROR:
                    _raise(payload)
                else:
                    payloads.append(payload)

    def _await(self, waiting: set[int]) -> None:
        while waiting:
            for answer, _flags, sequence, _port_id, payload in messages(self._receive()):
                if answer == NLMSG_ERROR:
                    _raise(payload)
                    waiting.discard(sequence)

    def _receive(self) -> bytes:
        return self._socket.recv(RECV_BYTES_MAX)


def _raise(payload: bytes) -> None:
    """Raise the error of an NLMSG_ERROR payload; a zero in it is an acknowledgement."""
    (code,) = struct.unpack_from("=l", payload)
    if code:
        raise OSError(-code, os.strerror(-code))
