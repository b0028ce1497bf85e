"""What a DHCPv4 reply looks like and where it goes (RFC 2131 section 4). `server` decides that there is one."""

from __future__ import annotations

from typing import NamedTuple

from arcbox_net.services.dhcp.messages import (
    ACK,
    BOOTREPLY,
    BROADCAST_FLAG,
    CLIENT_PORT,
    DATAGRAM_BYTES_MIN,
    HEADER_BYTES,
    IP_UDP_BYTES,
    NAK,
    OFFER,
    OPT_CLIENT_ID,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_MESSAGE,
    OPT_PARAMETERS,
    OPT_RELAY,
    OPT_SERVER_ID,
    OPT_SIZE_MAX,
    OPT_T1,
    OPT_T2,
    OPT_TYPE,
    SERVER_PORT,
    Message,
    build,
    encode_option,
    encode_u32,
)
from arcbox_net.services.dhcp.records import Lease
from arcbox_net.services.dhcp.settings import DhcpSettings

BLOCKS_MAX = 256  # parameter lists whose option block is remembered
BROADCAST_MAC = b"\xff" * 6
BROADCAST_IP = 0xFFFFFFFF


class Reply(NamedTuple):
    """A UDP payload and where it goes. The frame's destination is given, since the client may have no address."""

    payload: bytes
    mac: bytes
    ip: int
    dst_port: int

    @property
    def kind(self) -> int:
        """The message type: option 53 is the first of ours."""
        return self.payload[HEADER_BYTES + 2]


class Replies:
    """Makes one network's replies. Nothing of a request is in them but the fields that RFCs have echoed."""

    def __init__(self, settings: DhcpSettings) -> None:
        self._settings = settings
        self._server_id = int(settings.gateway)
        self._static = {
            number: encode_option(number, body) for number, body in settings.static_options().items()
        }
        self._blocks: dict[bytes | None, bytes] = {}
        self._heads: dict[tuple[int, int], bytes] = {}
        self._size_max = max(settings.mtu, DATAGRAM_BYTES_MIN) - IP_UDP_BYTES

    def answer(
        self,
        message: Message,
        mac: bytes,
        kind: int,
        yiaddr: int,
        lease_s: int | None,
        lease: Lease | None = None,
    ) -> Reply:
        """An OFFER or ACK with the network's options, as many as the client takes."""
        options = self._head(kind, lease_s)
        tail = b""
        if lease is not None and lease.named and lease.hostname is not None:
            tail = encode_option(OPT_HOSTNAME, lease.hostname.encode("ascii"))
        tail += _echoed(message)
        room = self._room(message) - HEADER_BYTES - len(options) - len(tail) - 1
        return _addressed(message, mac, kind, yiaddr, options + self._block(message, room) + tail)

    def nak(self, message: Message, mac: bytes) -> Reply:
        options = self._head(NAK, None) + encode_option(OPT_MESSAGE, b"address not available")
        return _addressed(message, mac, NAK, 0, options + _echoed(message))

    def _head(self, kind: int, lease_s: int | None) -> bytes:
        """Options 53, 54, 51, 58, 59. Nearly all clients get the same, so they are remembered."""
        head = self._heads.get((kind, lease_s or 0))
        if head is not None:
            return head
        head = encode_option(OPT_TYPE, bytes((kind,))) + encode_u32(OPT_SERVER_ID, self._server_id)
        if lease_s is not None:
            head += encode_u32(OPT_LEASE_S, lease_s)
            head += encode_u32(OPT_T1, lease_s // 2) + encode_u32(OPT_T2, lease_s * 7 // 8)
        if len(self._heads) >= BLOCKS_MAX:
            self._heads.clear()
        self._heads[(kind, lease_s or 0)] = head
        return head

    def _block(self, message: Message, room: int) -> bytes:
        """The options that are the same for all clients with this parameter list."""
        parameters = message.options.get(OPT_PARAMETERS)
        block = self._blocks.get(parameters)
        if block is None:
            block = b"".join(self._static[number] for number in self._order(parameters))
            if len(self._blocks) >= BLOCKS_MAX:
                self._blocks.clear()
            self._blocks[parameters] = block
        if len(block) <= room:
            return block
        fitting = b""
        for number in self._order(parameters):
            if len(self._static[number]) <= room - len(fitting):
                fitting += self._static[number]
        return fitting

    def _order(self, parameters: bytes | None) -> list[int]:
        """What the client asked for in its order, then what it gets in any case; all without a list."""
        if parameters is None:
            return list(self._static)
        asked = [number for number in dict.fromkeys(parameters) if number in self._static]
        always = [number for number in self._settings.options if number not in asked]
        mask = [] if 1 in asked or 1 in always or 1 not in self._static else [1]
        return [*mask, *asked, *always]

    def _room(self, message: Message) -> int:
        """RFC 2132 section 9.10: the client's maximum counts the whole datagram and is at least 576."""
        asked = message.options.get(OPT_SIZE_MAX)
        wanted = (
            DATAGRAM_BYTES_MIN if asked is None else max(int.from_bytes(asked, "big"), DATAGRAM_BYTES_MIN)
        )
        return min(wanted - IP_UDP_BYTES, self._size_max)


def _echoed(message: Message) -> bytes:
    """The options that go back as they came: RFC 6842, and RFC 3046, which wants its own last."""
    options = b""
    if OPT_CLIENT_ID in message.options:
        options += encode_option(OPT_CLIENT_ID, message.options[OPT_CLIENT_ID])
    if message.giaddr and OPT_RELAY in message.options:
        options += encode_option(OPT_RELAY, message.options[OPT_RELAY])
    return options


def _addressed(message: Message, mac: bytes, kind: int, yiaddr: int, options: bytes) -> Reply:
    """Where the reply goes: RFC 2131 section 4.1."""
    flags = message.flags
    if kind == NAK and message.giaddr:
        flags |= BROADCAST_FLAG
    payload = build(
        options,
        op=BOOTREPLY,
        xid=message.xid,
        chaddr=message.chaddr,
        flags=flags,
        ciaddr=0 if kind in (OFFER, NAK) else message.ciaddr,
        yiaddr=yiaddr,
        giaddr=message.giaddr,
    )
    if message.giaddr:
        return Reply(payload, mac, message.giaddr, SERVER_PORT)
    if kind == NAK:
        return Reply(payload, BROADCAST_MAC, BROADCAST_IP, CLIENT_PORT)
    if message.ciaddr and kind == ACK:
        return Reply(payload, mac, message.ciaddr, CLIENT_PORT)
    if flags & BROADCAST_FLAG:
        return Reply(payload, BROADCAST_MAC, BROADCAST_IP, CLIENT_PORT)
    return Reply(payload, mac, yiaddr, CLIENT_PORT)
