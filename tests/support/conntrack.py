"""Keys of flows and TCP segments, as the table of flows takes them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from arcbox_net.dataplane._testing_conntrack import Table
from arcbox_net.dataplane.verdict import Direction, Verdict

Key = tuple[int, int]
ICMP, TCP, UDP = 1, 6, 17
FIN, SYN, RST, ACK = 1, 2, 4, 16
GUEST, OTHER, EXTERNAL, SERVER = "192.168.64.2", "192.168.64.3", "203.0.113.1", "198.51.100.7"
WRAP = 1 << 32


def key(protocol: int, source: str, source_port: int, destination: str, port: int, *, inbound: bool) -> Key:
    """The two words of a key: addresses and ports as they lie in a header."""
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    ports = struct.unpack("=I", struct.pack(">HH", source_port, port))[0]
    direction = Direction.INBOUND if inbound else Direction.OUTBOUND
    return struct.unpack("=Q", addresses)[0], ports | protocol << 32 | direction << 40 | 1 << 63


def ways(number: int, protocol: int = UDP, port: int = 9000) -> tuple[Key, Key]:
    """Both keys of a flow that a guest opens from its port 1024 + *number*."""
    return (
        key(protocol, GUEST, 1024 + number, SERVER, port, inbound=False),
        key(protocol, SERVER, port, EXTERNAL, 20000 + number, inbound=True),
    )


def segment(
    flags: int, seq: int, ack: int = 0, *, window: int = 1000, size: int = 0, scale: int | None = None
) -> bytes:
    """A TCP segment with *size* bytes of payload and, if given, the window scale option."""
    options = b"" if scale is None else bytes((1, 3, 3, scale))
    offset = (20 + len(options)) // 4 << 4
    numbers = (seq % WRAP, ack % WRAP, offset, flags, window)
    return struct.pack(">HHIIBBHHH", 0, 0, *numbers, 0, 0) + options + bytes(size)


@dataclass
class End:
    """One end of a connection: what it sends next, and what it expects."""

    half: int
    seq: int
    ack: int = 0


@dataclass
class Connection:
    """A TCP flow of *table* and its two ends; a clock in hand. *isn* are the initial sequence numbers."""

    table: Table
    isn: tuple[int, int] = (1000, 5000)
    scales: tuple[int | None, int | None] = (None, None)
    now: int = 0
    flow: int = field(init=False)
    client: End = field(init=False)
    server: End = field(init=False)

    def __post_init__(self) -> None:
        flow = self.table.open(*ways(0, TCP), self.now)
        assert flow is not None
        self.flow = flow
        self.client, self.server = End(2 * flow, self.isn[0]), End(2 * flow + 1, self.isn[1])

    def send(
        self,
        sender: End,
        flags: int,
        size: int = 0,
        *,
        seq: int | None = None,
        ack: int | None = None,
        window: int = 1000,
    ) -> Verdict:
        """A segment from one end; without *seq* and *ack* the next in order, which the other end then expects."""
        scale = self.scales[sender is self.server] if flags & SYN else None
        sent = segment(
            flags,
            sender.seq if seq is None else seq,
            sender.ack if ack is None else ack,
            window=window,
            size=size,
            scale=scale,
        )
        if seq is None:
            sender.seq += size + bool(flags & SYN) + bool(flags & FIN)
            (self.server if sender is self.client else self.client).ack = sender.seq
        return Verdict(self.table.track(sender.half, sent, self.now))

    def establish(self) -> Connection:
        """The three-way handshake."""
        self.send(self.client, SYN)
        self.send(self.server, SYN | ACK)
        self.send(self.client, ACK)
        assert self.state == "established"
        return self

    def finish(self) -> None:
        """A FIN from both ends, acknowledged."""
        self.send(self.client, FIN | ACK)
        self.send(self.server, FIN | ACK)
        self.send(self.client, ACK)
        assert self.state == "closing"

    @property
    def state(self) -> str:
        return self.table.state(self.flow)

    def lives_until(self) -> int:
        """The last second at which the flow is alive if nothing more comes; expires it."""
        last = self.table.expires(self.flow) - 1
        assert self.table.expire(last) == 0
        assert self.table.expire(last + 1) == 1
        return last
