"""A DHCP server without sockets: messages in, parsed answers out, a clock to turn and a disk that can refuse."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from arcbox_net.services.dhcp.leases import LeaseTable
from arcbox_net.services.dhcp.messages import (
    ACK,
    BOOTREPLY,
    BOOTREQUEST,
    NAK,
    OFFER,
    OPT_CLIENT_ID,
    OPT_LEASE_S,
    OPT_REQUESTED_IP,
    OPT_SERVER_ID,
    OPT_TYPE,
    REQUEST,
    DropReason,
    Message,
    build,
    encode_option,
    parse,
)
from arcbox_net.services.dhcp.records import Clock, Lease, LeaseChange
from arcbox_net.services.dhcp.replies import Reply
from arcbox_net.services.dhcp.server import Decision, DhcpServer
from arcbox_net.services.dhcp.settings import DhcpSettings

GATEWAY = IPv4Address("192.168.64.1")
SERVER_ID = GATEWAY.packed
MAC_A = bytes.fromhex("02000000000a")
MAC_B = bytes.fromhex("02000000000b")
ANSWERS = frozenset((OFFER, ACK, NAK))


def settings(**changes: Any) -> DhcpSettings:
    values: dict[str, Any] = {
        "subnet": IPv4Network("192.168.64.0/24"),
        "gateway": GATEWAY,
        "pool": (IPv4Address("192.168.64.2"), IPv4Address("192.168.64.9")),
        "dns": (GATEWAY,),
        "domain": "net1.internal",
        "requests_per_s": 0,
    }
    return DhcpSettings(**(values | changes))


def mac(number: int) -> bytes:
    return b"\x02\x00" + number.to_bytes(4, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def ip(last: int) -> IPv4Address:
    return IPv4Address(f"192.168.64.{last}")


def request(
    kind: int,
    *,
    chaddr: bytes = MAC_A,
    xid: int = 0x1234,
    options: dict[int, bytes] | None = None,
    client_id: bytes | None = None,
    wanted: IPv4Address | None = None,
    server_id: bytes | None = None,
    **fields: int,
) -> bytes:
    """A client's payload."""
    found = {OPT_TYPE: bytes((kind,))}
    if client_id is not None:
        found[OPT_CLIENT_ID] = client_id
    if wanted is not None:
        found[OPT_REQUESTED_IP] = wanted.packed
    if server_id is not None:
        found[OPT_SERVER_ID] = server_id
    found |= options or {}
    encoded = b"".join(encode_option(number, payload) for number, payload in found.items())
    return build(encoded, op=BOOTREQUEST, xid=xid, chaddr=chaddr, **fields)


@dataclasses.dataclass
class Answer:
    """A reply as its client sees it."""

    message: Message
    reply: Reply

    @property
    def kind(self) -> int:
        return self.message.kind

    @property
    def ip(self) -> IPv4Address:
        return IPv4Address(self.message.yiaddr)

    @property
    def lease_s(self) -> int:
        return int.from_bytes(self.message.options[OPT_LEASE_S], "big")


class Site:
    """`disk` is what is durable; `refuse` makes the next commits fail; `now` is turned by `wait`."""

    def __init__(
        self, leases: list[Lease] | None = None, *, clock: Clock | None = None, **changes: Any
    ) -> None:
        self.now = clock or Clock(1_700_000_000.0, 1000.0, "boot-1")
        self.settings = settings(**changes)
        self.disk: dict[IPv4Address, Lease] = {lease.ip: lease for lease in leases or []}
        self.refuse = False
        self.table = LeaseTable(self.settings, list(self.disk.values()), now=self.now)
        self.server = DhcpServer(self.settings, self.table)
        self.decision = Decision()

    def wait(self, seconds: float) -> list[Lease]:
        self.now = Clock(self.now.wall + seconds, self.now.mono + seconds, self.now.boot)
        return self.table.expire(self.now)

    def restart(self, *, rebooted: bool = False, wall_jump: float = 0.0) -> Site:
        """The server again, from what its disk has."""
        now = self.now
        if rebooted:
            now = Clock(now.wall, 10.0, "boot-2")
        now = Clock(now.wall + wall_jump, now.mono, now.boot)
        again = Site(list(self.disk.values()), clock=now)
        again.settings = self.settings
        again.table = LeaseTable(self.settings, list(self.disk.values()), now=now)
        again.server = DhcpServer(self.settings, again.table)
        return again

    def commit(self, *changes: LeaseChange) -> bool:
        """What the writer does with a group."""
        rows = [*self.table.doubtful(), *changes]
        if self.refuse:
            self.table.failed(changes, self.now)
            return False
        for change in rows:
            for freed in change.frees:
                self.disk.pop(freed, None)
            if change.lease is None:
                self.disk.pop(change.ip, None)
            else:
                self.disk[change.ip] = change.lease
        self.table.committed(changes)
        return True

    def send(self, payload: bytes, *, source: bytes | None = None, port: str | None = None) -> Answer | None:
        """The answer to *payload*, after its changes were committed. `decision` keeps what was decided."""
        self.decision = self.server.handle(
            payload, source if source is not None else payload[28:34], port, self.now
        )
        reply = self.decision.reply
        if self.decision.changes and not self.commit(*self.decision.changes):
            reply = self.server.not_durable(self.decision, self.now)
        return None if reply is None else read(reply)

    @property
    def drop(self) -> DropReason | None:
        return self.decision.drop

    def lease(self, chaddr: bytes = MAC_A, *, port: str | None = None, **more: Any) -> Answer:
        """The four messages, and the ACK."""
        offer = self.send(request(1, chaddr=chaddr, **more), port=port)
        assert offer is not None and offer.kind == OFFER, self.drop
        more.pop("wanted", None)
        ack = self.send(
            request(REQUEST, chaddr=chaddr, wanted=offer.ip, server_id=SERVER_ID, **more), port=port
        )
        assert ack is not None and ack.kind == ACK and ack.ip == offer.ip
        return ack


def read(reply: Reply) -> Answer:
    message = parse(reply.payload, kinds=ANSWERS, op=BOOTREPLY)
    assert isinstance(message, Message), message
    return Answer(message, reply)


GUEST, SERVER = "192.168.64.2", "192.168.64.1"


def frame(payload: bytes = b"hello", **changes: object) -> bytes:
    """A datagram from GUEST to SERVER as scapy makes it, with *changes* of its IP header, or of its UDP header's
    `dport` and `len_udp`.
    """
    ip = IP(src=GUEST, dst=SERVER)
    udp = UDP(sport=68, dport=67)
    for name, value in changes.items():
        setattr(udp if name in ("dport", "len_udp") else ip, name.removesuffix("_udp"), value)
    return bytes(Ether(src="02:00:00:00:00:0a", dst="ff:ff:ff:ff:ff:ff") / ip / udp / Raw(payload))
