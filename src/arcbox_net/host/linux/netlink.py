"""The netlink wire: messages, attributes, and a socket that asks the kernel and waits for its answer.

Owns framing, acknowledgements and dumps; what the payloads mean is in `rtnl.py`. Only what this package
needs: docs/decisions/0002-rtnetlink.md says why it is not a library.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self

from arcbox_net.errors import KernelError, PermissionDenied
from arcbox_net.host.linux.namespace import in_netns, open_netns

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12
NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
NLM_F_ACK_TLVS: Final = 0x200
NLM_F_CAPPED: Final = 0x100
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLA_F_NESTED: Final = 0x8000
NLA_TYPE_MASK: Final = 0x3FFF
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_EXT_ACK: Final = 11
NETLINK_GET_STRICT_CHK: Final = 12
NLMSGERR_ATTR_MSG: Final = 1

RECEIVE_BYTES: Final = 1 << 18
DUMP_ATTEMPTS_MAX: Final = 16
ANSWER_TIMEOUT_S: Final = 10.0

_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")

Attr = tuple[int, bytes]


class Message:
    """One netlink message: its type, flags, sequence number and payload (family header and attributes)."""

    __slots__ = ("flags", "kind", "payload", "sequence")

    def __init__(self, kind: int, flags: int, sequence: int, payload: bytes) -> None:
        self.kind = kind
        self.flags = flags
        self.sequence = sequence
        self.payload = payload


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute with its padding."""
    size = _ATTR.size + len(payload)
    return _ATTR.pack(size, kind) + payload + bytes(-size % 4)


def attr_u8(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=B", value))


def attr_u32(kind: int, value: int) -> bytes:
    return attr(kind, struct.pack("=I", value))


def attr_text(kind: int, value: str) -> bytes:
    return attr(kind, value.encode() + b"\0")


def nested(kind: int, *members: bytes) -> bytes:
    return attr(kind | NLA_F_NESTED, b"".join(members))


def iter_attrs(payload: bytes, offset: int = 0) -> Iterator[Attr]:
    """`(type, value)` of the attributes from *offset* on; stops at the first that does not fit."""
    end = len(payload)
    while end - offset >= _ATTR.size:
        size, kind = _ATTR.unpack_from(payload, offset)
        if size < _ATTR.size or size > end - offset:
            return
        yield kind & NLA_TYPE_MASK, payload[offset + _ATTR.size : offset + size]
        offset += (size + 3) & ~3


def attrs(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    return dict(iter_attrs(payload, offset))


def text(value: bytes | None) -> str:
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def parse(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram; stops at the first that does not fit."""
    offset, end = 0, len(datagram)
    while end - offset >= _HEADER.size:
        size, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if size < _HEADER.size or size > end - offset:
            return
        yield Message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + size])
        offset += (size + 3) & ~3


def build(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, sequence, 0) + payload


def error_of(message: Message) -> tuple[int, str]:
    """Error number (0: none) of an NLMSG_ERROR or NLMSG_DONE, and what the kernel said about it."""
    payload = message.payload
    if len(payload) < 4:
        return 0, ""
    code = -int(struct.unpack_from("=i", payload)[0])
    offset = 4
    if message.kind == NLMSG_ERROR and len(payload) >= 4 + _HEADER.size:
        echoed = _HEADER.size if message.flags & NLM_F_CAPPED else struct.unpack_from("=I", payload, 4)[0]
        offset += (int(echoed) + 3) & ~3
    if not message.flags & NLM_F_ACK_TLVS:
        return code, ""
    return code, text(attrs(payload, offset).get(NLMSGERR_ATTR_MSG))


def kernel_error(operation: str, subject: str, code: int, words: str = "") -> KernelError | PermissionDenied:
    """The error a caller sees when the kernel refused *operation* on *subject*."""
    detail = f"{os.strerror(code)} ({words})" if words else os.strerror(code)
    if code == errno.EPERM:
        return PermissionDenied(
            f"{operation} {subject}: {detail}",
            fix="run as root, or give the process CAP_NET_ADMIN",
            operation=operation,
            object=subject,
            errno=code,
        )
    return KernelError(f"{operation} {subject}: {detail}", operation=operation, object=subject, errno=code)


def open_socket(protocol: int, netns: str | int | None = None) -> socket.socket:
    """A netlink socket of the namespace *netns* (a path or an fd; None: the caller's)."""

    def create() -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)

    if netns is None:
        return create()
    if isinstance(netns, int):
        return in_netns(netns, create)
    fd = open_netns(netns, None)
    try:
        return in_netns(fd, create)
    finally:
        os.close(fd)


class Netlink:
    """A socket for requests, one at a time, in one thread at a time."""

    def __init__(self, protocol: int = NETLINK_ROUTE, netns: str | int | None = None) -> None:
        self._socket = open_socket(protocol, netns)
        try:
            self._socket.bind((0, 0))
            # In a guest's namespace the guest may send to this socket: the kernel refuses all but its own answers.
            self._socket.connect((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            self._socket.settimeout(ANSWER_TIMEOUT_S)
        except BaseException:
            self._socket.close()
            raise
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request(self, kind: int, flags: int, payload: bytes, *, operation: str, subject: str) -> None:
        """Do it and wait for the acknowledgement. Raises KernelError or PermissionDenied."""
        if failure := self.attempt(kind, flags, payload):
            raise kernel_error(operation, subject, *failure)

    def attempt(self, kind: int, flags: int, payload: bytes) -> tuple[int, str] | None:
        """As `request`, but a refusal is returned: error number and the kernel's words. None: done."""
        sequence = self._send(kind, flags | NLM_F_ACK, payload)
        for message in self._answers(sequence):
            if message.kind == NLMSG_ERROR:
                code, words = error_of(message)
                return (code, words) if code else None
        raise AssertionError("unreachable: answers end with an acknowledgement")

    def get(self, kind: int, payload: bytes) -> Message | None:
        """The one object asked for, None when the kernel does not know it."""
        sequence = self._send(kind, 0, payload)
        for message in self._answers(sequence):
            if message.kind != NLMSG_ERROR:
                return message
            code, words = error_of(message)
            if code in (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.ENXIO):
                return None
            raise kernel_error("read", "a kernel object", code, words)
        return None

    def dump(self, kind: int, payload: bytes) -> list[Message]:
        """All objects of a kind. A dump that the kernel says changed under way is taken again."""
        for _ in range(DUMP_ATTEMPTS_MAX):
            sequence = self._send(kind, NLM_F_DUMP, payload)
            found: list[Message] = []
            interrupted = False
            for message in self._answers(sequence):
                interrupted |= bool(message.flags & NLM_F_DUMP_INTR)
                if message.kind in (NLMSG_ERROR, NLMSG_DONE):
                    code, words = error_of(message)
                    if code:
                        raise kernel_error("list", "kernel objects", code, words)
                    break
                found.append(message)
            if not interrupted:
                return found
        raise kernel_error("list", "kernel objects", errno.EAGAIN, "they keep changing")

    def _send(self, kind: int, flags: int, payload: bytes) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        self._socket.send(build(kind, flags | NLM_F_REQUEST, self._sequence, payload))
        return self._sequence

    def _answers(self, sequence: int) -> Iterator[Message]:
        """Messages that answer *sequence*; what an earlier request left in the socket is skipped."""
        while True:
            for message in parse(self._socket.recv(RECEIVE_BYTES)):
                if message.sequence == sequence:
                    yield message


def mapping_get_u32(found: Mapping[int, bytes], kind: int, default: int = 0) -> int:
    """A 32-bit attribute, *default* when absent or too short."""
    value = found.get(kind, b"")
    return int(struct.unpack_from("=I", value)[0]) if len(value) >= 4 else default
