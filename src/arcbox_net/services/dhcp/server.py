"""What a DHCPv4 server answers (RFC 2131): a client's message and the time in, lease changes and a reply out.

`leases` decides who has which address, `messages` is the wire, `shell` does the I/O. The rules here: a reply
that depends on a change may leave only when the change is durable; if it cannot be, `not_durable` says what is
left to tell. What is not answered is counted under its DropReason. Nothing a guest sends raises.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from arcbox_net.services.dhcp.leases import Client, LeaseTable, Offer
from arcbox_net.services.dhcp.messages import (
    ACK,
    BOOTREPLY,
    BROADCAST_FLAG,
    CLIENT_PORT,
    DATAGRAM_BYTES_MIN,
    DECLINE,
    DISCOVER,
    HEADER_BYTES,
    INFORM,
    IP_UDP_BYTES,
    LEASE_S_INFINITE,
    NAK,
    OFFER,
    OPT_CLIENT_ID,
    OPT_HOSTNAME,
    OPT_LEASE_S,
    OPT_MESSAGE,
    OPT_PARAMETERS,
    OPT_RELAY,
    OPT_REQUESTED_IP,
    OPT_SERVER_ID,
    OPT_SIZE_MAX,
    OPT_T1,
    OPT_T2,
    OPT_TYPE,
    RELEASE,
    REQUEST,
    SERVER_PORT,
    DropReason,
    Message,
    build,
    encode_option,
    encode_u32,
    parse,
)
from arcbox_net.services.dhcp.rate import RateLimit
from arcbox_net.services.dhcp.records import Clock, Lease, LeaseChange
from arcbox_net.services.dhcp.settings import DhcpSettings

__all__ = ["Decision", "DhcpServer", "DhcpSettings", "Reply"]

LEASE_S_FLOOR = 120
BLOCKS_MAX = 256  # parameter lists whose option block is remembered
MESSAGE_BYTES_MAX = 2048  # of a request; no client comes near
BROADCAST_MAC = b"\xff" * 6
BROADCAST_IP = 0xFFFFFFFF

# A guest with one of these names would speak for the network; the names service refuses them as well.
HOSTNAMES_REFUSED = frozenset(("localhost", "wpad", "gateway", "host", "isatap"))
_HOSTNAME = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Reply(NamedTuple):
    """A UDP payload and where it goes. The frame's destination is given, since the client may have no address."""

    payload: bytes
    mac: bytes
    ip: int
    dst_port: int


@dataclasses.dataclass(slots=True)
class Decision:
    """What one datagram leads to. With `changes`, `reply` waits until they are durable.

    `probe`: an address in the reply that had another owner; ask on the wire before it is offered.
    """

    changes: tuple[LeaseChange, ...] = ()
    reply: Reply | None = None
    drop: DropReason | None = None
    message: Message | None = None
    client: Client | None = None
    mac: bytes = b""
    probe: int = 0


class DhcpServer:
    """One network's server. Single-threaded; `table` is shared with the program's own allocations."""

    def __init__(self, settings: DhcpSettings, table: LeaseTable) -> None:
        self._settings = settings
        self._table = table
        self._server_id = int(settings.gateway)
        self._network = int(settings.subnet.network_address)
        self._netmask = int(settings.subnet.netmask)
        self._by_mac = settings.match == "mac"
        self._rate = RateLimit(settings.requests_per_s)
        self._static = {
            number: encode_option(number, body) for number, body in settings.static_options().items()
        }
        self._blocks: dict[bytes | None, bytes] = {}
        self._heads: dict[tuple[int, int], bytes] = {}
        self._size_max = max(settings.mtu, DATAGRAM_BYTES_MIN) - IP_UDP_BYTES
        self.received: collections.Counter[int] = collections.Counter()
        self.sent: collections.Counter[int] = collections.Counter()
        self.drops: collections.Counter[DropReason] = collections.Counter()
        self._handlers: Mapping[int, Callable[[Message, Client, bytes, Clock], Decision]] = {
            DISCOVER: self._discover,
            REQUEST: self._request,
            DECLINE: self._decline,
            RELEASE: self._release,
            INFORM: self._inform,
        }

    def handle(self, payload: bytes, source_mac: bytes, port: str | None, now: Clock) -> Decision:
        """What to do with a datagram to port 67 that came from *source_mac* behind guest *port*."""
        if not self._rate.take(port if port is not None else source_mac, now.mono):
            return self.dropped(DropReason.RATE)
        if len(payload) > MESSAGE_BYTES_MAX:
            return self.dropped(DropReason.LONG)
        message = parse(payload)
        if isinstance(message, DropReason):
            return self.dropped(message)
        bad = self._origin(message, source_mac, port)
        if bad is not None:
            return self.dropped(bad)
        self.received[message.kind] += 1
        client = Client(
            self._identity(message, port), message.chaddr, message.options.get(OPT_CLIENT_ID), port
        )
        decision = self._handlers[message.kind](message, client, source_mac, now)
        if decision.drop is not None:
            self.drops[decision.drop] += 1
        return decision

    def not_durable(self, decision: Decision, now: Clock) -> Reply | None:
        """The reply when the disk refused the changes of *decision* (and the table has taken them back).

        A client that renews is told what is left of its durable lease, a new one nothing.
        """
        self.drops[DropReason.NOT_DURABLE] += 1
        if decision.reply is None or decision.message is None or decision.client is None:
            return None
        change = decision.changes[0]
        lease = self._table.durable(int(change.ip))
        if lease is None or lease.mac != decision.client.mac or lease.identity != decision.client.identity:
            return None
        left = int(lease.expires_s(now) or 0) if lease.is_bound(now) else 0
        if left <= 0:
            return None
        return self._answer(decision.message, decision.mac, ACK, int(change.ip), left, lease)

    def answered(self, reply: Reply) -> None:
        """Count a reply that was sent: its option 53 is the first (see `_answer`)."""
        self.sent[reply.payload[HEADER_BYTES + 2]] += 1

    def dropped(self, reason: DropReason) -> Decision:
        self.drops[reason] += 1
        return Decision(drop=reason)

    def conflict(self, decision: Decision, now: Clock) -> tuple[LeaseChange, ...]:
        """A probe found another machine on the address that *decision* offers: put it away."""
        if decision.client is None:
            return ()
        change = self._table.conflict(decision.client, decision.probe, now)
        return () if change is None else (change,)

    def stats(self) -> dict[str, int]:
        names = {
            DISCOVER: "discover",
            REQUEST: "request",
            DECLINE: "decline",
            RELEASE: "release",
            INFORM: "inform",
        }
        found = {f"rx_{name}": self.received[kind] for kind, name in names.items()}
        found |= {
            f"tx_{name}": self.sent[kind] for kind, name in ((OFFER, "offer"), (ACK, "ack"), (NAK, "nak"))
        }
        return found | {f"drop_{reason.value}": count for reason, count in sorted(self.drops.items())}

    # Who asks

    def _origin(self, message: Message, source_mac: bytes, port: str | None) -> DropReason | None:
        """A guest speaks for its own MAC only. A relay is believed where no guest port is behind it."""
        if message.giaddr == 0:
            return None if message.chaddr == source_mac else DropReason.SPOOFED
        if port is not None or message.giaddr & self._netmask != self._network:
            return DropReason.RELAYED
        return None

    def _identity(self, message: Message, port: str | None) -> bytes:
        """RFC 4361: the client-id if there is one, else hardware type and address.

        Behind a guest port the port's name is part of it, so that no guest can send another's client-id.
        """
        own = None if self._by_mac else message.options.get(OPT_CLIENT_ID)
        if own is None:
            own = b"\x01" + message.chaddr
        return own if port is None else port.encode() + b"\0" + own

    # What is answered

    def _discover(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        self._table.expire_offers(now)
        offer = self._table.offer(client, message.address(OPT_REQUESTED_IP), now)
        if not isinstance(offer, Offer):
            return Decision(drop=offer)
        reply = self._answer(message, mac, OFFER, offer.ip, self._lease_s(message))
        return Decision(reply=reply, message=message, client=client, probe=offer.ip if offer.reused else 0)

    def _request(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        requested = message.address(OPT_REQUESTED_IP)
        server_id = message.options.get(OPT_SERVER_ID)
        if server_id is not None:
            if message.address(OPT_SERVER_ID) != self._server_id:
                self._table.withdraw(client)
                return Decision(drop=DropReason.OTHER_SERVER)
            ip = requested or message.ciaddr
            return self._grant(message, client, mac, ip, now)
        if message.ciaddr:  # renewing (unicast) or rebinding (broadcast)
            return self._grant(message, client, mac, message.ciaddr, now)
        if not requested:
            return Decision(drop=DropReason.BAD_ADDRESS)
        # INIT-REBOOT, RFC 2131 section 4.3.2: a wrong net is refused, an unknown client not answered.
        if requested & self._netmask == self._network and self._table.address_of(client) is None:
            return Decision(drop=DropReason.UNKNOWN_CLIENT)
        return self._grant(message, client, mac, requested, now)

    def _grant(self, message: Message, client: Client, mac: bytes, ip: int, now: Clock) -> Decision:
        """ACK with *ip* once that is durable, or NAK."""
        if not ip:
            return Decision(drop=DropReason.BAD_ADDRESS)
        lease_s = self._lease_s(message)
        hostname = sanitise_hostname(message.options.get(OPT_HOSTNAME))
        fresh = self._table.fresh(client, ip, lease_s, hostname, now)
        if fresh is not None:
            return Decision(reply=self._answer(message, mac, ACK, ip, lease_s, fresh))
        change = self._table.bind(client, ip, lease_s, hostname, now)
        if change is DropReason.PORT_LIMIT:
            return Decision(drop=change)
        if isinstance(change, DropReason):
            return Decision(reply=self._nak(message, mac), message=message, client=client)
        reply = self._answer(message, mac, ACK, ip, lease_s, change.lease)
        return Decision((change,), reply, None, message, client, mac)

    def _decline(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        if message.address(OPT_SERVER_ID) not in (0, self._server_id):
            return Decision(drop=DropReason.OTHER_SERVER)
        ip = message.address(OPT_REQUESTED_IP)
        change = self._table.decline_by(client, ip, now)
        if change is None:
            own = ip and self._table.address_of(client) == ip
            return Decision(drop=DropReason.DECLINED if own else DropReason.BAD_ADDRESS)
        return Decision((change,))

    def _release(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        if message.address(OPT_SERVER_ID) not in (0, self._server_id):
            return Decision(drop=DropReason.OTHER_SERVER)
        change = self._table.release_by(client, message.ciaddr, now)
        return Decision(drop=DropReason.BAD_ADDRESS) if change is None else Decision((change,))

    def _inform(self, message: Message, client: Client, mac: bytes, now: Clock) -> Decision:
        """Options only: no lease, no address (RFC 2131 section 4.3.5)."""
        if message.ciaddr & self._netmask != self._network:
            return Decision(drop=DropReason.BAD_ADDRESS)
        return Decision(reply=self._answer(message, mac, ACK, 0, None), message=message, client=client)

    def _lease_s(self, message: Message) -> int:
        asked = message.options.get(OPT_LEASE_S)
        if asked is None:
            return self._settings.lease_s
        wanted = int.from_bytes(asked, "big")
        if wanted == LEASE_S_INFINITE:
            return self._settings.max_lease_s
        return min(max(wanted, LEASE_S_FLOOR), self._settings.max_lease_s)

    # The reply

    def _answer(
        self,
        message: Message,
        mac: bytes,
        kind: int,
        yiaddr: int,
        lease_s: int | None,
        lease: Lease | None = None,
    ) -> Reply:
        options = self._head(kind, lease_s)
        tail = b""
        if lease is not None and lease.named and lease.hostname is not None:
            tail = encode_option(OPT_HOSTNAME, lease.hostname.encode("ascii"))
        client_id = message.options.get(OPT_CLIENT_ID)
        if client_id is not None:  # RFC 6842
            tail += encode_option(OPT_CLIENT_ID, client_id)
        if message.giaddr and OPT_RELAY in message.options:  # RFC 3046: as it came, last
            tail += encode_option(OPT_RELAY, message.options[OPT_RELAY])
        room = self._room(message) - HEADER_BYTES - len(options) - len(tail) - 1
        return self._addressed(message, mac, kind, yiaddr, options + self._block(message, room) + tail)

    def _nak(self, message: Message, mac: bytes) -> Reply:
        options = self._head(NAK, None) + encode_option(OPT_MESSAGE, b"address not available")
        client_id = message.options.get(OPT_CLIENT_ID)
        if client_id is not None:
            options += encode_option(OPT_CLIENT_ID, client_id)
        if message.giaddr and OPT_RELAY in message.options:
            options += encode_option(OPT_RELAY, message.options[OPT_RELAY])
        return self._addressed(message, mac, NAK, 0, options)

    def _addressed(self, message: Message, mac: bytes, kind: int, yiaddr: int, options: bytes) -> Reply:
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


def sanitise_hostname(payload: bytes | None) -> str | None:
    """The first label of option 12 as a DNS name, or None when it is none or not a guest's to have."""
    if payload is None or len(payload) > 255:
        return None
    label = payload.rstrip(b"\0").lower().split(b".", 1)[0]
    if _HOSTNAME.fullmatch(label) is None:
        return None
    name = label.decode("ascii")
    return None if name in HOSTNAMES_REFUSED else name
