"""vhost-user on the wire: requests with their exact sizes, replies, and how pieces of a stream become messages.

All numbers are in the machine's own byte order. A message has a header of 12 bytes, a payload, and up to FDS_MAX
descriptors beside them (QEMU, docs/interop/vhost-user).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

PAYLOAD_BYTES_MAX = 4096
FDS_MAX = 8
TABLE_REGIONS_MAX = 8  # of SET_MEM_TABLE

VERSION = 1
VERSION_MASK = 3
REPLY = 1 << 2
NEED_REPLY = 1 << 3

INDEX_MASK = 0xFF  # of the u64 that comes with a kick or call descriptor
NO_DESCRIPTOR = 1 << 8

HEADER = struct.Struct("=III")
U64 = struct.Struct("=Q")
RING_STATE = struct.Struct("=II")
RING_ADDRESSES = struct.Struct("=IIQQQQ")  # index, flags, descriptors, used, available, log
REGION = struct.Struct("=QQQQ")
TABLE = struct.Struct("=II")
ONE_REGION = struct.Struct("=QQQQQ")  # 8 bytes of padding ahead
INFLIGHT = struct.Struct("=QQHH")
INFLIGHT_PADDING = 4  # that C puts behind it, and some front ends send


class Request(IntEnum):
    """What a front end may ask of this back end; everything else is refused."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    NET_SET_MTU = 20
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40


_EMPTY = (0,)
_NUMBER = (U64.size,)
_STATE = (RING_STATE.size,)
_INFLIGHT = (INFLIGHT.size, INFLIGHT.size + INFLIGHT_PADDING)

PAYLOAD_SIZES: dict[int, tuple[int, ...]] = {
    Request.GET_FEATURES: _EMPTY,
    Request.SET_FEATURES: _NUMBER,
    Request.SET_OWNER: _EMPTY,
    Request.RESET_OWNER: _EMPTY,
    Request.SET_MEM_TABLE: tuple(TABLE.size + n * REGION.size for n in range(1, TABLE_REGIONS_MAX + 1)),
    Request.SET_VRING_NUM: _STATE,
    Request.SET_VRING_ADDR: (RING_ADDRESSES.size,),
    Request.SET_VRING_BASE: _STATE,
    Request.GET_VRING_BASE: _STATE,
    Request.SET_VRING_KICK: _NUMBER,
    Request.SET_VRING_CALL: _NUMBER,
    Request.SET_VRING_ERR: _NUMBER,
    Request.GET_PROTOCOL_FEATURES: _EMPTY,
    Request.SET_PROTOCOL_FEATURES: _NUMBER,
    Request.GET_QUEUE_NUM: _EMPTY,
    Request.SET_VRING_ENABLE: _STATE,
    Request.NET_SET_MTU: _NUMBER,
    Request.GET_INFLIGHT_FD: _INFLIGHT,
    Request.SET_INFLIGHT_FD: _INFLIGHT,
    Request.GET_MAX_MEM_SLOTS: _EMPTY,
    Request.ADD_MEM_REG: (ONE_REGION.size,),
    Request.REM_MEM_REG: (ONE_REGION.size,),
    Request.SET_STATUS: _NUMBER,
    Request.GET_STATUS: _EMPTY,
}


class ProtocolError(Exception):
    """The front end broke the protocol: its connection ends."""


@dataclass
class Message:
    """One request. Whoever takes a descriptor out of `fds` owns it; the rest is closed with the message."""

    request: int
    flags: int = VERSION
    payload: bytes = b""
    fds: list[int] = field(default_factory=list)

    @property
    def need_reply(self) -> bool:
        return bool(self.flags & NEED_REPLY)

    def number(self) -> int:
        return int(U64.unpack(self.payload)[0])

    def state(self) -> tuple[int, int]:
        """Ring index and number."""
        index, number = RING_STATE.unpack(self.payload)
        return index, number


@dataclass
class Reply:
    """What goes back to the front end, with a descriptor that is closed once it is sent."""

    body: bytes
    fd: int | None = None


def reply(request: int, payload: bytes, fd: int | None = None) -> Reply:
    return Reply(HEADER.pack(request, VERSION | REPLY, len(payload)) + payload, fd)


def reply_number(request: int, number: int) -> Reply:
    return reply(request, U64.pack(number))


class MessageReader:
    """Puts messages together from pieces of a stream, of which it never wants more than one message has.

    So the descriptors that come with a piece belong to the message that is being read.
    """

    def __init__(self) -> None:
        self._piece = b""
        self._size: int | None = None  # of the payload, once the header is complete
        self.fds: list[int] = []  # of the message that is being read: put here as they come

    @property
    def wanted(self) -> int:
        """Bytes to read next; never 0."""
        return HEADER.size + (self._size or 0) - len(self._piece)

    def receive(self, piece: bytes) -> Message | None:
        """The message that *piece*, of at most `wanted` bytes, completes; what came with it is in `fds` before.

        Raises ProtocolError.
        """
        self._piece += piece
        if len(self.fds) > FDS_MAX:
            raise ProtocolError(
                f"{len(self.fds)} descriptors with one message, of which {FDS_MAX} are allowed"
            )
        if len(self._piece) < HEADER.size:
            return None
        request, flags, size = HEADER.unpack_from(self._piece)
        if self._size is None:
            _check_header(request, flags, size)
            self._size = size
        if len(self._piece) < HEADER.size + self._size:
            return None
        message = Message(request, flags, self._piece[HEADER.size :], self.fds)
        self._piece, self._size, self.fds = b"", None, []
        return message


def _check_header(request: int, flags: int, size: int) -> None:
    if flags & VERSION_MASK != VERSION or flags & REPLY:
        raise ProtocolError(f"request {request} has flags {flags:#x}")
    # A request that this back end does not know is read, to be refused.
    if size > PAYLOAD_BYTES_MAX or size not in PAYLOAD_SIZES.get(request, (size,)):
        raise ProtocolError(f"request {request} says that its payload has {size} bytes")
