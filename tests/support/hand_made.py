"""A guest's TCP connection whose every segment the test makes, options, windows and all."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator

from tests.support import segments
from tests.support.netns import PATIENCE_S, Namespace
from tests.support.segments import ACK, SYN, Segment

MSS = 1400


class HandMade:
    """The guest's end, which *syn* opened. Offsets are counted from the first byte of each stream.

    `answer` is the answer to *syn*; `acknowledged` and `window` are what the peer said last, `received` is what it
    sent, without gaps.
    """

    def __init__(self, link: socket.socket, header: bytes, syn: Segment) -> None:
        self._link, self._header, self._syn = link, header, syn
        self._peer_first = 0
        self.acknowledged, self.window = 0, 0
        self.received = bytearray()
        self._put(syn)
        self.answer = self.heard(lambda got: got.flags == SYN | ACK)
        self._peer_first = self.answer.seq + 1
        self.send(0)

    def send(self, offset: int, payload: bytes = b"", *, window: int = 64_000, options: bytes = b"") -> None:
        """One segment with *payload* at *offset*, which acknowledges what was received."""
        self._put(
            dataclasses.replace(
                self._syn,
                flags=ACK,
                seq=(self._syn.seq + 1 + offset) % 2**32,
                ack=self.edge(len(self.received)),
                window=window,
                options=options,
                payload=payload,
            )
        )

    def send_all(self, offset: int, data: bytes) -> None:
        """*data* in segments, in order, whatever the peer's window is."""
        for start in range(0, len(data), MSS):
            self.send(offset + start, data[start : start + MSS])

    def edge(self, offset: int) -> int:
        """The sequence number of *offset* in the peer's stream."""
        return (self._peer_first + offset) % 2**32

    def heard(self, wanted: Callable[[Segment], bool], *, timeout: float = PATIENCE_S) -> Segment:
        """The next segment of the peer for which *wanted* holds; TimeoutError: there is none."""
        deadline = time.monotonic() + timeout
        while True:
            self._link.settimeout(max(deadline - time.monotonic(), 0))
            try:
                got = segments.parsed(self._link.recv(65536))
            except BlockingIOError as error:
                raise TimeoutError from error
            if got is None or (got.src, got.dst_port) != (self._syn.dst, self._syn.src_port):
                continue
            self.acknowledged = (got.ack - self._syn.seq - 1) % 2**32
            self.window = got.window
            if wanted(got):
                return got

    def hear_all(self) -> None:
        """Take note of what arrived until now."""
        with contextlib.suppress(TimeoutError):
            self.heard(lambda got: False, timeout=0)

    def receive(self, size: int, *, window: int = 64_000, options: bytes = b"") -> None:
        """Acknowledge what the peer sends, each time with *window* and *options*, until *size* bytes of its stream
        are there. What comes beyond them is as if it were lost.
        """
        while (known := len(self.received)) < size:
            got = self.heard(lambda segment: bool(segment.payload))
            ahead = (got.seq - self.edge(known)) % 2**32
            if ahead == 0 or ahead >= 2**31:
                self.received += got.payload[-ahead % 2**32 :][: size - known]
            self.send(0, window=window, options=options)

    def _put(self, segment: Segment) -> None:
        self._link.send(self._header + segments.packet(segment))


@contextlib.contextmanager
def hand_made(guest: Namespace, gateway: str, syn: Segment) -> Iterator[HandMade]:
    """A connection of *guest* that *syn* opens."""

    with (
        segments.by_hand(guest, syn.src_port, gateway) as mac,
        guest.call(lambda: segments.link_of("eth0")) as link,
    ):
        yield HandMade(link, bytes.fromhex(mac.replace(":", "")) + link.getsockname()[4], syn)
